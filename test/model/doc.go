// Package model plays histories with the engine: commits, crashes, refusals, outages, writers that come late, and people who change things by hand.
//
// A History is a list of steps, made from a seed (Generate) or read from a file. Play runs the real engine (internal/pipeline with
// apply, intent and ledger) through one against test/fakeapi in virtual time and checks, at each write and after each step, what
// docs/spec/atomicity.md promises. Replay runs the same steps against a real API server and compares the state after each. docs/design/model.md
// says what is modelled and what is not.
package model
