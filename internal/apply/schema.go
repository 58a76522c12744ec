package apply

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

// What the API knows of a kind is not what a revision says that defines or changes it. So its objects are checked here, against the schema
// in the revision, by the API's own code and in its order: unknown fields, defaults, values, rules.

// definition is a custom resource definition that comes or changes with a revision.
type definition struct {
	origin   string
	versions map[string]func() *checker // that are served; each is made when it is asked for
}

// checker holds what one version of a kind allows.
type checker struct {
	structural *structuralschema.Structural
	values     validation.SchemaValidator
	rules      *cel.Validator
	status     bool // is a subresource, which nobody creates an object with
}

// defined reads a definition; nil of one that cannot be read, which the API tells itself.
func defined(o Object) (schema.GroupKind, *definition) {
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, crd); err != nil {
		return schema.GroupKind{}, nil
	}
	d := &definition{o.Origin, map[string]func() *checker{}}
	for _, v := range crd.Spec.Versions {
		if v.Served {
			d.versions[v.Name] = sync.OnceValue(func() *checker { return newChecker(v) })
		}
	}
	return schema.GroupKind{Group: crd.Spec.Group, Kind: crd.Spec.Names.Kind}, d
}

// newChecker is nil for a version whose schema the API will not take.
func newChecker(v apiextensionsv1.CustomResourceDefinitionVersion) *checker {
	if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
		return nil
	}
	var props apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, &props, nil); err != nil {
		return nil
	}
	structural, err := structuralschema.NewStructural(&props)
	if err != nil {
		return nil
	}
	values, _, err := validation.NewSchemaValidator(&props)
	if err != nil {
		return nil
	}
	return &checker{structural, values, cel.NewValidator(structural, true, celconfig.PerCallLimit), v.Subresources != nil && v.Subresources.Status != nil}
}

// check refuses an object that its definition does not allow, with everything that is wrong. Of one that is there already others may have
// set what it does not declare itself.
func (d *definition) check(ctx context.Context, o Object, there bool) error {
	version := o.GroupVersionKind().Version
	make, served := d.versions[version]
	if !served {
		return d.refuse(fmt.Sprintf("it serves no version %s", version))
	}
	c := make()
	if c == nil {
		return nil
	}
	unknown, errs := c.check(ctx, o.DeepCopy().Object, there)
	var wrong []string
	for _, path := range unknown {
		wrong = append(wrong, fmt.Sprintf("unknown field %q", path))
	}
	for _, err := range errs {
		wrong = append(wrong, err.Error())
	}
	if len(wrong) == 0 {
		return nil
	}
	return d.refuse(strings.Join(wrong, "; "))
}

func (d *definition) refuse(why string) error {
	of := "its CustomResourceDefinition in the same revision"
	if d.origin != "" {
		of += " (" + d.origin + ")"
	}
	return &apiMessage{of + " does not allow it: " + why, nil}
}

func (c *checker) check(ctx context.Context, u map[string]any, there bool) (unknown []string, errs field.ErrorList) {
	_, _, unknown, err := objectmeta.GetObjectMetaWithOptions(u, objectmeta.ObjectMetaOptions{ReturnUnknownFieldPaths: true})
	if err != nil {
		return unknown, field.ErrorList{field.Invalid(field.NewPath("metadata"), "", err.Error())}
	}
	unknown = append(unknown, pruning.PruneWithOptions(u, c.structural, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})...)
	defaulting.PruneNonNullableNullsWithoutDefaults(u, c.structural)
	bad, embedded := objectmeta.CoerceWithOptions(nil, u, c.structural, false, objectmeta.CoerceOptions{ReturnUnknownFieldPaths: true})
	if unknown = append(unknown, embedded...); bad != nil {
		return unknown, field.ErrorList{bad}
	}
	defaulting.Default(u, c.structural)
	if c.status {
		delete(u, "status")
	}
	errs = validation.ValidateCustomResource(nil, u, c.values)
	errs = append(errs, objectmeta.Validate(nil, u, c.structural, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, c.structural, u)...)
	switch {
	case there: // and its rules are about all of it
		errs = slices.DeleteFunc(errs, func(e *field.Error) bool { return e.Type == field.ErrorTypeRequired })
	case c.rules != nil && !slices.ContainsFunc(errs, blocksRules):
		broken, _ := c.rules.Validate(ctx, nil, c.structural, u, nil, celconfig.RuntimeCELCostBudget)
		errs = append(errs, broken...)
	}
	return unknown, errs
}

// blocksRules says that rules cannot be asked about an object with such an error: they rely on its types and sizes.
func blocksRules(e *field.Error) bool {
	switch e.Type {
	case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
		return true
	}
	return false
}
