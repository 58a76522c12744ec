package github

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Server is a running test server. Its URL is the base of the API.
type Server struct {
	*httptest.Server
	t    testing.TB
	mux  *http.ServeMux
	desc *description
}

// New starts a server that serves nothing yet. It ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	desc, err := parseDescription()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, mux: http.NewServeMux(), desc: desc}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s is not served by this test", r.Method, r.URL.Path)
		http.NotFound(w, r)
	})
	s.Server = httptest.NewServer(s.mux)
	t.Cleanup(s.Close)
	return s
}

// Handle serves one operation of the description: path is written as it stands there, {name} for a parameter, which the
// handler reads with PathValue. What comes in and what goes out is checked; what does not fit fails the test.
func (s *Server) Handle(method, path string, h http.HandlerFunc) {
	s.t.Helper()
	if operation, _ := s.desc.at("paths", path, strings.ToLower(method)); operation == nil {
		s.t.Fatalf("openapi.json has no %s %s", method, path)
	}
	s.mux.HandleFunc(method+" "+path, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 10<<20))
		if err != nil {
			s.t.Errorf("%s %s: read request: %v", method, r.URL.Path, err)
			return
		}
		if err := s.desc.request(path, method, body); err != nil {
			s.t.Errorf("%s %s: the request is none that GitHub takes: %v", method, r.URL.Path, err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		answer := httptest.NewRecorder()
		h(answer, r)
		if err := s.desc.response(path, method, answer.Code, answer.Body.Bytes()); err != nil {
			s.t.Errorf("%s %s: the answer is none that GitHub gives: %v", method, r.URL.Path, err)
		}
		for k, v := range answer.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes()) // a client that went away
	})
}

// Example is what the description gives as an answer of an operation, of a list its first item, for a test to alter and send.
func (s *Server) Example(method, path string, status int) map[string]any {
	s.t.Helper()
	v := s.desc.example(path, method, status)
	if v == nil {
		s.t.Fatalf("openapi.json has no example of %d for %s %s", status, method, path)
	}
	return v
}

// Answer writes a JSON answer.
func Answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // into a recorder
}
