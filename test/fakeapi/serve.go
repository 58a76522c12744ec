package fakeapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
)

var (
	unversioned = field.ErrorList{field.Invalid(field.NewPath("metadata", "resourceVersion"), 0, "must be specified for an update")}
	errLate     = fmt.Errorf("the object has been modified; please apply your changes to the latest version and try again")
)

// Request is what a request asks for.
type Request struct {
	Method, Kind, Namespace, Name, Subresource string
	Query                                      url.Values
	Header                                     http.Header
	Body                                       []byte
}

// DryRun says that nothing is to be stored.
func (r Request) DryRun() bool { return r.Query.Get("dryRun") == metav1.DryRunAll }

// RoundTrip answers a request.
func (s *Server) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		req.Body.Close()
	}
	if answer := discovery[strings.TrimSuffix(req.URL.Path, "/")]; answer != nil && req.Method == http.MethodGet {
		return respond(req, http.StatusOK, answer), nil
	}
	k, r, err := parse(req, body)
	if err == nil && k == nil { // an event: it is taken, and kept by nobody
		return respond(req, http.StatusCreated, body), nil
	}
	if err == nil && r.Query.Get("watch") != "" {
		var stream io.ReadCloser
		if stream, err = s.watch(req.Context(), k, r); err == nil {
			return stream200(req, stream), nil
		}
	}
	code, answer := http.StatusOK, []byte(nil)
	if err == nil {
		s.mu.Lock()
		code, answer, err = s.answer(k, r)
		s.mu.Unlock()
	}
	if err != nil {
		return failure(req, err), nil
	}
	return respond(req, code, answer), nil
}

// parse reads /api/v1/namespaces/NS/KIND/NAME/SUBRESOURCE and its like.
func parse(req *http.Request, body []byte) (*kind, Request, error) {
	r := Request{Method: req.Method, Query: req.URL.Query(), Header: req.Header, Body: body}
	parts := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	var gv schema.GroupVersion
	switch {
	case len(parts) > 2 && parts[0] == "api":
		gv, parts = schema.GroupVersion{Version: parts[1]}, parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		gv, parts = schema.GroupVersion{Group: parts[1], Version: parts[2]}, parts[3:]
	default:
		return nil, r, errors.NewGenericServerResponse(http.StatusNotFound, strings.ToLower(req.Method), schema.GroupResource{}, "", "", 0, true)
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		r.Namespace, parts = parts[1], parts[2:]
	}
	if parts[0] == "events" && req.Method != http.MethodGet {
		return nil, r, nil
	}
	if len(parts) > 1 {
		r.Name = parts[1]
	}
	if len(parts) > 2 {
		r.Subresource = parts[2]
	}
	for _, k := range kinds {
		if k.gvk.GroupVersion() == gv && k.plural == parts[0] {
			r.Kind = k.gvk.Kind
			return k, r, nil
		}
	}
	return nil, r, errors.NewGenericServerResponse(http.StatusNotFound, strings.ToLower(req.Method), schema.GroupResource{}, "", "", 0, true)
}

// answer carries a request out.
func (s *Server) answer(k *kind, r Request) (int, []byte, error) {
	key := types.NamespacedName{Namespace: r.Namespace, Name: r.Name}
	if r.Method == http.MethodGet && r.Name == "" {
		raw, err := s.list(k, r)
		return http.StatusOK, raw, err
	}
	if r.Method == http.MethodGet {
		if e := s.objects[k][key]; e != nil {
			return http.StatusOK, e.raw, nil
		}
		return 0, nil, errors.NewNotFound(k.resource(), r.Name)
	}
	rules := k.rules
	if r.Subresource == "status" {
		rules = k.status
	}
	if rules == nil || r.Subresource != "" && r.Subresource != "status" {
		return 0, nil, errors.NewMethodNotSupported(k.resource(), strings.ToLower(r.Method))
	}
	if r.Method == http.MethodDelete {
		return s.answerDelete(k, key, r)
	}
	w := writing{k: k, key: key, rules: rules, dryRun: r.DryRun(), request: r}
	var err error
	switch r.Method {
	case http.MethodPost:
		err = w.posted()
	case http.MethodPut:
		err = w.replaced()
	case http.MethodPatch:
		err = w.patched()
	default:
		err = errors.NewMethodNotSupported(k.resource(), strings.ToLower(r.Method))
	}
	if err != nil {
		return 0, nil, err
	}
	raw, created, err := s.put(genericrequest.NewContext(), w)
	if created {
		return http.StatusCreated, raw, err
	}
	return http.StatusOK, raw, err
}

func (s *Server) answerDelete(k *kind, key types.NamespacedName, r Request) (int, []byte, error) {
	var o metav1.DeleteOptions
	if len(r.Body) > 0 {
		if err := json.Unmarshal(r.Body, &o); err != nil {
			return 0, nil, errors.NewBadRequest(err.Error())
		}
	}
	e := s.objects[k][key]
	raw, err := s.delete(k, key, o, r.DryRun(), r)
	if err != nil || raw != nil {
		return http.StatusOK, raw, err
	}
	raw, err = json.Marshal(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess,
		Details: &metav1.StatusDetails{Name: key.Name, Group: k.gvk.Group, Kind: k.plural, UID: metaOf(e.obj).GetUID()}})
	return http.StatusOK, raw, err
}

func (s *Server) list(k *kind, r Request) ([]byte, error) {
	selector, err := selectorOf(r)
	if err != nil {
		return nil, err
	}
	var keys []types.NamespacedName
	for key, e := range s.objects[k] {
		if (r.Namespace == "" || key.Namespace == r.Namespace) && selector.Matches(labelsOf(e.obj)) {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"kind":%q,"apiVersion":%q,"metadata":{"resourceVersion":"%d"},"items":[`, k.gvk.Kind+"List", k.gvk.GroupVersion(), s.version)
	for n, key := range keys {
		if n > 0 {
			b.WriteByte(',')
		}
		b.Write(s.objects[k][key].raw)
	}
	b.WriteString("]}")
	return b.Bytes(), nil
}

func selectorOf(r Request) (labels.Selector, error) {
	if f := r.Query.Get("fieldSelector"); f != "" {
		return nil, errors.NewBadRequest("fakeapi knows no field selectors: " + f)
	}
	selector, err := labels.Parse(r.Query.Get("labelSelector"))
	if err != nil {
		return nil, errors.NewBadRequest(err.Error())
	}
	return selector, nil
}

func respond(req *http.Request, code int, body []byte) *http.Response {
	return &http.Response{StatusCode: code, Status: fmt.Sprintf("%d %s", code, http.StatusText(code)), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Request: req, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}
}

func stream200(req *http.Request, body io.ReadCloser) *http.Response {
	resp := respond(req, http.StatusOK, nil)
	resp.Body, resp.ContentLength = body, -1
	return resp
}

func failure(req *http.Request, err error) *http.Response {
	status, ok := err.(errors.APIStatus)
	if !ok {
		status = errors.NewInternalError(err)
	}
	return Refuse(req, status.Status())
}

// Refuse is the answer that says why a request failed.
func Refuse(req *http.Request, status metav1.Status) *http.Response {
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	body, err := json.Marshal(status)
	if err != nil {
		panic(fmt.Sprintf("fakeapi: a status is not JSON: %v", err)) // it is a struct of texts
	}
	return respond(req, int(status.Code), body)
}
