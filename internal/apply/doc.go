// Package apply makes a cluster hold the objects of one Application: Prove asks the API what each object would change,
// without writing, and Apply carries the plan out, stage by stage, by server-side apply.
//
// In go desired objects and what the Application held before; out come a diff.Plan, then a Report with the new
// inventory. It is the only writer of desired state. It refuses to begin while any object would be refused, to take an
// object from another Application, and to delete what is not in the inventory with the same UID. It knows nothing of
// Git, rendering or when a sync is due.
package apply
