// Package daemon turns Options into a running instance: container runtime, control plane, scheduler, network, node
// agent and engine, and says the order in which they start and stop.
//
// It is the only package that knows all parts; they do not know each other. It holds the data directory's lock, checks
// the machine before anything is written, and keeps what was asked for in instance.json, so that Down and Uninstall
// find everything that an instance has put on the machine.
package daemon
