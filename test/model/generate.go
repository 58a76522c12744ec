package model

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

// Generate makes a history from a seed: the same for the same seed.
func Generate(seed uint64) History {
	g := &generator{rand: rand.New(rand.NewPCG(seed, 4)), objects: Objects{}}
	h := History{Seed: seed, Policy: Policy{Hold: g.one(4), NoHeal: g.one(5), NoPrune: g.one(8)}}
	g.mutate(4)
	h.Steps = append(h.Steps, g.commit())
	for range 2 + g.rand.IntN(6) {
		h.Steps = append(h.Steps, g.step()...)
	}
	return h
}

// Calm makes a history whose states after each step do not depend on how fast anything is: for comparing two APIs. It waits for rest
// after each step, and its faults meet effects that are named, not counted.
func Calm(seed uint64) History {
	g := &generator{rand: rand.New(rand.NewPCG(seed, 5)), objects: Objects{}, calm: true}
	h := History{Seed: seed, Policy: Policy{Hold: g.one(4), NoHeal: g.one(5), NoPrune: g.one(8)}}
	g.mutate(4)
	h.Steps = append(h.Steps, g.commit())
	for range 2 + g.rand.IntN(4) {
		h.Steps = append(h.Steps, g.step()...)
	}
	for n := range h.Steps {
		h.Steps[n].Settle = max(h.Steps[n].Settle, Rest)
	}
	return h
}

type generator struct {
	rand    *rand.Rand
	objects Objects   // of the last commit
	before  []Objects // of those before
	calm    bool
	values  int
}

// names of objects that histories have.
var names = []string{"cm/a", "cm/b", "cm/c", "cm/d", "secret/s", "svc/w", "deploy/web"}

// one is true once in n times.
func (g *generator) one(n int) bool { return g.rand.IntN(n) == 0 }

func pick[T any](g *generator, of ...T) T { return of[g.rand.IntN(len(of))] }

func (g *generator) value(name string) string {
	g.values++
	if name == "deploy/web" {
		return fmt.Sprintf("good:%d", g.values)
	}
	return fmt.Sprintf("v%d", g.values)
}

// mutate changes so many objects of the last commit: makes, changes or removes them.
func (g *generator) mutate(n int) {
	g.objects = maps.Clone(g.objects)
	for range n {
		name := pick(g, names...)
		if g.objects[name] != "" && g.one(3) && len(g.objects) > 1 {
			delete(g.objects, name)
		} else {
			g.objects[name] = g.value(name)
		}
	}
}

// commit is a new one: mostly good, sometimes back to an older one, sometimes with something wrong.
func (g *generator) commit() Step {
	g.before = append(g.before, g.objects)
	switch {
	case g.one(6):
		g.objects = maps.Clone(pick(g, g.before...)) // git revert
		return Step{Do: Commit, Objects: g.objects}
	case g.one(20):
		g.objects = Objects{}
		return Step{Do: Commit, Objects: g.objects}
	case g.one(20):
		return Step{Do: Broken}
	}
	g.mutate(1 + g.rand.IntN(4))
	if g.one(6) {
		g.objects[theirs] = g.value(theirs)
	}
	bad := maps.Clone(g.objects)
	switch {
	case g.one(4):
		bad[pick(g, names[:6]...)] = refuse + pick(g, "Forbidden", "Invalid", "Quota")
	case g.one(4):
		bad["deploy/web"] = fmt.Sprintf("bad:%d", g.rand.IntN(100))
	case g.one(6):
		bad["deploy/web"] = fmt.Sprintf("late:%d", g.rand.IntN(100))
	case g.one(12):
		bad["cm/a"] = invalid
	}
	g.objects = bad
	return Step{Do: Commit, Objects: bad}
}

// step is something that happens, and perhaps what follows from it.
func (g *generator) step() []Step {
	var out []Step
	switch n := g.rand.IntN(20); {
	case n < 9:
		out = append(out, g.commit())
		if bad := out[0].Objects["cm/a"] == invalid; bad {
			delete(g.objects, "cm/a")
		}
	case n < 12:
		out = append(out, Step{Do: pick(g, Change, Delete, Add), Object: pick(g, append(slices.Sorted(maps.Keys(g.objects)), theirs)...)})
	case n == 12:
		out = append(out, Step{Do: Detain, Object: pick(g, names[:4]...)})
	case n == 13:
		out = append(out, Step{Do: Suspend}, g.commit(), Step{Do: Resume})
	case n == 14:
		out = append(out, Step{Do: Retry})
	case n == 15:
		out = append(out, Step{Do: Pin, Back: g.rand.IntN(3)})
	case n == 16:
		out = append(out, Step{Do: Run})
	case n == 17 && g.one(2):
		out = append(out, Step{Do: pick(g, Consent, Release)})
	case n == 17 && !g.calm:
		stopped := g.commit()
		stopped.Settle, stopped.Fault = pick(g, time.Second, Rest, Late), &Fault{N: 1 + g.rand.IntN(12), Kind: Stopped}
		if g.one(2) {
			stopped.Fault = &Fault{N: 1, Kind: Stopped, Target: "object " + pick(g, names...)}
		}
		out = append(out, stopped)
		if g.one(2) {
			out = append(out, g.commit())
		}
		return append(out, Step{Do: TakeOver, Settle: Rest})
	case n == 18 && !g.calm:
		out = append(out, Step{Do: pick(g, Restart, Relist, Relist)})
	default:
		out = append(out, Step{Do: Wait, Settle: Late})
	}
	for n := range out {
		if out[n].Settle == 0 {
			out[n].Settle = g.settle()
		}
	}
	if g.one(2) {
		out[len(out)-1].Fault = g.fault()
		if out[len(out)-1].Fault.Kind == Before || out[len(out)-1].Fault.Kind == After {
			if !g.calm && g.one(3) { // something happens while there is no engine
				out = append(out, g.commit())
			}
			out = append(out, Step{Do: Restart, Settle: g.settle()})
		}
	}
	return out
}

func (g *generator) settle() time.Duration {
	if g.calm {
		return pick(g, Rest, Rest, Late)
	}
	return pick(g, 0, 10*time.Millisecond, 500*time.Millisecond, 3*time.Second, Rest, Rest, Rest, Late)
}

// fault is one that the step meets, if it has such an effect.
func (g *generator) fault() *Fault {
	f := &Fault{N: 1, Kind: pick(g, Refused, Failed, Lost, Before, Before, After, After, Outage)}
	if !g.calm && g.one(2) {
		f.N = 1 + g.rand.IntN(16)
		return f
	}
	f.Target = pick(g, "object "+pick(g, names...), "object "+pick(g, names...), "intent Applying", "intent Undoing", "intent Pruning", "intent Verifying", "end", "contents", "ledger")
	if g.calm && (f.Kind == Outage || f.Kind == Refused && f.Target[:3] != "obj") {
		f.Kind = After
	}
	return f
}
