// Package podspec turns a pod into what the container runtime is told: one sandbox configuration and one container
// configuration for each start. Values come in (objects, services, addresses, the image's user); the package does no
// I/O. What cannot be configured is an error that names the key or the field to repair.
package podspec
