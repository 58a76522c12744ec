package pipeline

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/apply"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// The watches of an account end when no Application acts as it any more, and those of others go on.
func TestWatchesOfAccountsEnd(t *testing.T) {
	began, ended := make(chan string, 10), make(chan string, 10)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		user := r.Header.Get("Impersonate-User")
		if r.URL.Query().Get("watch") == "" {
			json.NewEncoder(w).Encode(map[string]any{"apiVersion": "v1", "kind": "ConfigMapList", "metadata": map[string]any{"resourceVersion": "7"}, "items": []any{}})
			return
		}
		if r.URL.Query().Get("sendInitialEvents") == "true" {
			http.Error(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}`, http.StatusUnprocessableEntity)
			return
		}
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		began <- user
		<-r.Context().Done()
		ended <- user
	}))
	t.Cleanup(api.Close)
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, meta.RESTScopeNamespace)
	l := &live{
		ctx: t.Context(), mapper: mapper, log: slog.New(slog.DiscardHandler), changed: func(string) {},
		allowed: func(schema.GroupVersionResource) bool { return false },
		client: func(user string) (dynamic.Interface, error) {
			return dynamic.NewForConfig(&rest.Config{Host: api.URL, Impersonate: rest.ImpersonationConfig{UserName: user}})
		},
	}
	l.init()
	t.Cleanup(l.wait)
	next := func(from chan string) string {
		t.Helper()
		select {
		case user := <-from:
			return user
		case <-time.After(30 * time.Second):
			t.Fatal("nothing within 30 s")
			return ""
		}
	}
	o := apply.Object{Unstructured: &unstructured.Unstructured{}}
	o.SetAPIVersion("v1")
	o.SetKind("ConfigMap")
	o.SetNamespace(metav1.NamespaceDefault)
	o.SetName("c")
	for _, user := range []string{"one", "two"} {
		l.as(user).follow([]apply.Object{o})
		if got := next(began); got != user {
			t.Fatalf("a watch of %q began, want %q", got, user)
		}
	}
	l.end(func(user string) bool { return user == "two" })
	if got := next(ended); got != "one" {
		t.Fatalf("the watch of %q ended", got)
	}
	select {
	case user := <-ended:
		t.Errorf("the watch of %q ended too", user)
	default:
	}
	l.as("one").follow([]apply.Object{o}) // somebody acts as it again
	if got := next(began); got != "one" {
		t.Errorf("a watch of %q began", got)
	}
}
