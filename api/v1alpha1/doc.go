// Package v1alpha1 holds the nouns of the API group gitopsd.io: Application and what its fields are made of.
//
// The custom resource definition beside the product is generated from these types (make generate), never edited.
// docs/spec/application.md says what each field means to a user; a field without an effect does not exist here.
//
// +kubebuilder:object:generate=true
// +groupName=gitopsd.io
package v1alpha1
