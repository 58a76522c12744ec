// Package volume prepares the volumes of pods on this host and takes them away again.
//
// In goes a pod; out come host paths to mount into its containers. Files that come from objects of the API are written
// atomically, so that a reader sees all of the old or all of the new, and are written again when the objects change.
// Secrets and tokens live on tmpfs and never reach the disk. What is set up twice is set up once: a restart of the
// agent does it again under running containers.
//
// Volumes of storage systems are refused with a message that says so; host paths and local persistent volumes work.
package volume
