// Package fakeapi is a Kubernetes API server without sockets, storage or controllers, for tests that run in virtual time.
//
// In go HTTP requests, through the http.RoundTripper that a Server is; out come the answers that kube-apiserver gives: discovery, get, list, watch,
// create, update, patch, server-side apply with managedFields, delete with preconditions and finalizers, dry-run, status subresources. The
// rules are not written again: defaults, validation and preparation are the strategies of k8s.io/kubernetes, field ownership is
// apimachinery's manager with the real schemas. What is ours is the store, the watch, and the order of the steps, which follows
// k8s.io/apiserver; test/e2e compares both on the same requests.
//
// It refuses what it does not know with an error rather than guessing: kinds other than those of kinds.go, field selectors, the scale subresource. There is no
// admission and no authorization, no garbage collection, and a namespace is never torn down.
package fakeapi
