package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/test/fakeapi"
	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"
)

// asked is a request to both API servers: the first line is method, path and query, what follows the body. A GET's answer can be
// referred to by later requests: $UID and $VERSION are of the object that was read last, $STALE is the version before that.
const (
	applied = "application/apply-patch+yaml"
	merged  = "application/merge-patch+json"
	plain   = "application/json"
)

type asked struct{ line, contentType, body string }

func applies(object, query, body string) asked {
	return asked{"PATCH " + object + "?" + query, applied, body}
}

const (
	cm     = "/api/v1/namespaces/same/configmaps/a"
	dep    = "/apis/apps/v1/namespaces/same/deployments/web"
	svc    = "/api/v1/namespaces/same/services/w"
	ourApp = "/apis/gitopsd.io/v1alpha1/namespaces/same/applications/app"

	cmBody  = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","labels":{"l":"1"}},"data":{"k":"1"}}`
	depBody = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"replicas":0,"selector":{"matchLabels":{"app":"web"}},"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"c","image":"good:1"}]}}}}`
	svcBody = `{"apiVersion":"v1","kind":"Service","metadata":{"name":"w"},"spec":{"selector":{"app":"web"},"ports":[{"port":80}]}}`
	appBody = `{"apiVersion":"gitopsd.io/v1alpha1","kind":"Application","metadata":{"name":"app"},"spec":{"source":{"repo":"r"},"sync":{"heal":true,"prune":true}}}`
)

var questions = []asked{
	{"POST /api/v1/namespaces", plain, `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"same"}}`},
	{"GET " + cm, "", ""},
	{"GET /api/v1/namespaces/same/nothing/a", "", ""},
	// Server-side apply: made, made again, taken, given up.
	applies(cm, "fieldManager=one&dryRun=All", cmBody),
	{"GET " + cm, "", ""},
	applies(cm, "fieldManager=one", cmBody),
	applies(cm, "fieldManager=one", cmBody),
	{"GET " + cm, "", ""},
	applies(cm, "fieldManager=two", strings.Replace(cmBody, `"k":"1"`, `"k":"2"`, 1)),
	applies(cm, "fieldManager=two&force=true&dryRun=All", strings.Replace(cmBody, `"k":"1"`, `"k":"2"`, 1)),
	applies(cm, "fieldManager=two&force=true", strings.Replace(cmBody, `"k":"1"`, `"k":"2"`, 1)),
	applies(cm, "fieldManager=one", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`),
	{"GET " + cm, "", ""},
	applies(cm, "fieldManager=two", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`),
	{"PATCH " + cm + "?fieldManager=three", merged, `{"data":{"k":"3","other":"x"},"metadata":{"finalizers":["example.org/f"]}}`},
	applies(cm, "fieldManager=one&force=true", cmBody),
	// What is wrong with a request.
	applies(cm, "", cmBody),
	applies(cm, "fieldManager=one", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}`),
	applies(cm, "fieldManager=one&force=true", strings.Replace(cmBody, `"k":`, `"no/key":`, 1)),
	applies("/api/v1/namespaces/absent/configmaps/a", "fieldManager=one", strings.Replace(cmBody, "same", "absent", 1)),
	applies("/api/v1/namespaces/absent/configmaps/a", "fieldManager=one&dryRun=All", cmBody),
	{"POST /api/v1/namespaces/same/configmaps", plain, cmBody},
	{"DELETE /api/v1/namespaces/same/configmaps/absent", plain, ""},
	// Versions and UIDs that an apply names.
	{"GET " + cm, "", ""},
	applies(cm, "fieldManager=one&force=true", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","uid":"$UID","resourceVersion":"$VERSION"},"data":{"k":"4"}}`),
	applies(cm, "fieldManager=one&force=true", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","uid":"$UID","resourceVersion":"$VERSION"},"data":{"k":"5"}}`),
	applies(cm, "fieldManager=one&force=true", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","resourceVersion":"1"},"data":{"k":"5"}}`),
	applies(cm, "fieldManager=one&force=true", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","uid":"b5b5b5b5-0000-0000-0000-000000000000"},"data":{"k":"5"}}`),
	applies("/api/v1/namespaces/same/configmaps/new", "fieldManager=one", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"new","resourceVersion":"1"},"data":{"k":"1"}}`),
	applies("/api/v1/namespaces/same/configmaps/new", "fieldManager=one", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"new","resourceVersion":"1"},"data":{"k":"1"}}`),
	applies("/api/v1/namespaces/same/configmaps/newer", "fieldManager=one", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"newer","uid":"$UID"},"data":{"k":"1"}}`),
	// Deletion: preconditions, finalizers, and what becomes of an apply meanwhile.
	{"GET " + cm, "", ""},
	{"DELETE " + cm, plain, `{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"b5b5b5b5-0000-0000-0000-000000000000"}}`},
	{"DELETE " + cm, plain, `{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"$UID","resourceVersion":"1"}}`},
	{"DELETE " + cm, plain, `{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"$UID","resourceVersion":"$VERSION"},"propagationPolicy":"Background"}`},
	{"GET " + cm, "", ""},
	applies(cm, "fieldManager=one&force=true", cmBody),
	{"PATCH " + cm + "?fieldManager=three", merged, `{"metadata":{"finalizers":null}}`},
	{"GET " + cm, "", ""},
	{"DELETE /api/v1/namespaces/same/configmaps/new?dryRun=All", plain, ""},
	{"DELETE /api/v1/namespaces/same/configmaps/new", plain, ""},
	// A Deployment: defaults, generation, what may not change, and its status.
	applies(dep, "fieldManager=one&dryRun=All", depBody),
	applies(dep, "fieldManager=one", depBody),
	{"SETTLED " + dep, "", ""},
	applies(dep, "fieldManager=one&dryRun=All", depBody),
	applies(dep, "fieldManager=one&dryRun=All", strings.Replace(depBody, "good:1", "good:2", 1)),
	applies(dep, "fieldManager=one", strings.Replace(depBody, "good:1", "good:2", 1)),
	{"SETTLED " + dep, "", ""},
	applies(dep, "fieldManager=one&force=true", strings.ReplaceAll(depBody, `"app":"web"`, `"app":"other"`)),
	applies(dep, "fieldManager=one&force=true", strings.Replace(depBody, `,"image":"good:1"`, "", 1)),
	{"PATCH " + dep + "?fieldManager=three", merged, `{"spec":{"replicas":0,"paused":true}}`},
	{"SETTLED " + dep, "", ""},
	applies(dep, "fieldManager=two&force=true", `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"paused":false}}`),
	{"DELETE " + dep, plain, `{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background"}`},
	// Services and Secrets.
	applies(svc, "fieldManager=one", svcBody),
	applies(svc, "fieldManager=one", strings.Replace(svcBody, `"port":80`, `"port":81`, 1)),
	applies(svc, "fieldManager=one", strings.Replace(svcBody, `"port":80`, `"port":800000`, 1)),
	applies("/api/v1/namespaces/same/secrets/s", "fieldManager=one", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"stringData":{"k":"v"}}`),
	applies("/api/v1/namespaces/same/secrets/s", "fieldManager=one", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"data":{"k":"djE="}}`),
	applies("/api/v1/namespaces/same/secrets/s", "fieldManager=one", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"stringData":{"k":"v2"}}`),
	applies("/api/v1/namespaces/same/secrets/s", "fieldManager=one", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"type":"example.org/other"}`),
	// An Application: versions, generation, the status apart.
	{"POST /apis/gitopsd.io/v1alpha1/namespaces/same/applications", plain, appBody},
	{"GET " + ourApp, "", ""},
	{"PUT " + ourApp + "/status", plain, strings.Replace(appBody, `"name":"app"`, `"name":"app","resourceVersion":"$VERSION"`, 1)[:len(appBody)+len(`,"resourceVersion":"$VERSION"`)-1] + `,"status":{"phase":"Applied"}}`},
	{"PUT " + ourApp + "/status", plain, strings.Replace(appBody, `"name":"app"`, `"name":"app","resourceVersion":"$VERSION"`, 1)[:len(appBody)+len(`,"resourceVersion":"$VERSION"`)-1] + `,"status":{"phase":"Failed"}}`},
	{"PUT " + ourApp, plain, appBody},
	{"GET " + ourApp, "", ""},
	{"PUT " + ourApp, plain, strings.Replace(strings.Replace(appBody, `"name":"app"`, `"name":"app","resourceVersion":"$VERSION"`, 1), `"heal":true`, `"heal":false`, 1)},
	{"PATCH " + ourApp, merged, `{"metadata":{"annotations":{"gitopsd.io/suspend":"true"}}}`},
	{"GET " + ourApp, "", ""},
}

// The fake API server of the model answers as the real one: the same code and reason, and the same object but for UIDs, versions and times.
func TestFakeAPIAnswersAsTheRealOne(t *testing.T) {
	withPlain(t)
	b, err := bare()
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(b.config)
	if err != nil {
		t.Fatal(err)
	}
	sides := []*side{{via: fakeapi.New(), host: "http://fake"}, {via: client.Transport, host: b.config.Host}}
	for n, q := range questions {
		fake, real := sides[0].ask(t, q), sides[1].ask(t, q)
		if d := cmp.Diff(real, fake); d != "" {
			t.Errorf("question %d, %s\n%s\n- real, + fake\n%s", n, q.line, q.body, d)
		}
	}
}

// side is one of two API servers, and what was read of it last.
type side struct {
	via          http.RoundTripper
	host         string
	uid, version string
}

// reply is what is compared.
type reply struct {
	Code   int
	Reason string
	Object any
}

func (s *side) ask(t *testing.T, q asked) reply {
	t.Helper()
	method, path, _ := strings.Cut(q.line, " ")
	if method == "SETTLED" {
		eventually(t, 20*time.Second, "the controller has seen "+path, func() error {
			_, body := s.send(t, http.MethodGet, path, "", "")
			var d struct {
				Metadata struct{ Generation int64 }
				Status   struct{ ObservedGeneration int64 }
			}
			if err := json.Unmarshal(body, &d); err != nil || d.Status.ObservedGeneration != d.Metadata.Generation || !bytes.Contains(body, []byte("deployment.kubernetes.io/revision")) {
				return fmt.Errorf("not yet: %v", err)
			}
			return nil
		})
		method = http.MethodGet
	}
	code, body := s.send(t, method, path, q.contentType, strings.NewReplacer("$UID", s.uid, "$VERSION", s.version).Replace(q.body))
	var object map[string]any
	if err := json.Unmarshal(body, &object); err != nil {
		return reply{Code: code, Reason: string(body)}
	}
	if m, ok := object["metadata"].(map[string]any); ok && q.line[:3] == "GET" {
		s.uid, _ = m["uid"].(string)
		s.version, _ = m["resourceVersion"].(string)
	}
	reason, _ := object["reason"].(string)
	return reply{code, reason, plainly(object)}
}

func (s *side) send(t *testing.T, method, path, contentType, body string) (int, []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.host+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", "unknown")
	resp, err := s.via.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, answer
}

// particulars of an API server: what no two of them have in common.
var particulars = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}|\b[0-9]{3,}\b|[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+`)

// plainly is an answer without what differs by its nature: names of moments, numbers of versions, and what controllers say in a status.
func plainly(object map[string]any) any {
	if object["kind"] == "Status" {
		return particulars.ReplaceAllString(fmt.Sprint(object["message"]), "#")
	}
	if object["kind"] == "Deployment" {
		delete(object, "status")
	}
	m := object["metadata"].(map[string]any)
	for _, name := range []string{"uid", "resourceVersion", "creationTimestamp", "deletionTimestamp"} {
		if _, has := m[name]; has {
			m[name] = "#"
		}
	}
	if object["kind"] == "Application" {
		delete(m, "managedFields") // the fake keeps none of Applications
	}
	fields, _ := m["managedFields"].([]any)
	var kept []any
	for _, f := range fields {
		f := f.(map[string]any)
		delete(f, "time")
		if f["subresource"] != "status" {
			kept = append(kept, f)
		}
	}
	slices.SortFunc(kept, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	m["managedFields"] = kept
	if spec, ok := object["spec"].(map[string]any); ok && object["kind"] == "Service" {
		spec["clusterIP"], spec["clusterIPs"] = "#", "#"
	}
	return object
}
