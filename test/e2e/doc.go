// Package e2e drives the finished program as a person would: real processes, real containers, real Git repositories.
//
// One instance is shared by all tests that need no fault of their own; each of them has an Application and a namespace
// to itself. Tests that kill, fill or uninstall start an instance of their own on other ports, ranges and names. The
// daemon and its render workers are built with the race detector (make e2e); what it finds fails the run.
package e2e
