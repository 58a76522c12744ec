// Package pipeline says the order: for every Application it takes the newest commit, renders it, proves and applies
// it, waits for health, and writes the status. reconcile.go holds the whole order on one screen.
//
// It is level-based: what counts is the Application, the newest commit and the live objects, never how one got there.
// Everything that may change one of them (a commit, a watch event, an edited spec) puts the Application's name into one
// queue; waiting holds no worker. requeueAfter is the one place that says when an Application is looked at again.
//
// It works against any Kubernetes API and knows nothing of nodes, scheduling or containers.
package pipeline
