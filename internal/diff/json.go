package diff

import (
	"bytes"
	"encoding/json"
	"time"
)

// The JSON of a plan is for programs: docs/spec/plan.md lists its fields, which keep their names and meaning.
type planJSON struct {
	Application  string       `json:"application,omitempty"`
	Revision     string       `json:"revision,omitempty"`
	Summary      summaryJSON  `json:"summary"`
	Changes      []changeJSON `json:"changes"`
	Irreversible []string     `json:"cannotBeUndone,omitempty"`
	Notes        []string     `json:"notes,omitempty"`
}

type summaryJSON struct {
	Create    int `json:"create"`
	Update    int `json:"update"`
	Prune     int `json:"prune"`
	Unchanged int `json:"unchanged"`
}

type refJSON struct {
	Group     string `json:"group,omitempty"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

type changeJSON struct {
	Action Action `json:"action"`
	refJSON
	Fields    []fieldJSON `json:"fields,omitempty"`
	NotProven string      `json:"notProven,omitempty"`
	Replaces  bool        `json:"replaces,omitempty"`
}

type fieldJSON struct {
	Path      string `json:"path"`
	Old       any    `json:"old,omitempty"`
	New       any    `json:"new,omitempty"`
	Secret    bool   `json:"secret,omitempty"`
	TakenFrom string `json:"takenFrom,omitempty"`
}

// MarshalJSON writes the objects that change; those that do not are only counted.
func (p Plan) MarshalJSON() ([]byte, error) {
	out := planJSON{Application: p.Application, Revision: p.Revision, Irreversible: p.Irreversible(), Notes: p.Notes,
		Summary: summaryJSON{p.Count(Create), p.Count(Update), p.Count(Prune), p.Count(Unchanged)}, Changes: []changeJSON{}}
	for _, c := range p.Changes {
		if c.Action == Unchanged {
			continue
		}
		change := changeJSON{Action: c.Action, refJSON: refJSON(c.Ref), NotProven: c.Deferred, Replaces: c.Replaces}
		for _, f := range c.Fields {
			change.Fields = append(change.Fields, fieldJSON{f.Path, f.Old, f.New, f.Secret, f.TakenFrom})
		}
		out.Changes = append(out.Changes, change)
	}
	return marshal(out)
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}

type driftJSON struct {
	Application string        `json:"application"`
	Revision    string        `json:"revision"`
	Drifted     bool          `json:"drifted"`
	Healed      bool          `json:"healed"`
	Fate        string        `json:"fate,omitempty"`
	Fields      []driftedJSON `json:"fields"`
	SetByOthers []driftedJSON `json:"setByOthers"`
	Ignored     []string      `json:"ignored,omitempty"`
}

type driftedJSON struct {
	refJSON
	Path     string     `json:"path,omitempty"`
	Deleted  bool       `json:"deleted,omitempty"`
	Declared any        `json:"declared,omitempty"`
	Live     any        `json:"live,omitempty"`
	Secret   bool       `json:"secret,omitempty"`
	Manager  string     `json:"manager,omitempty"`
	Time     *time.Time `json:"time,omitempty"`
}

// MarshalJSON writes one entry for each field, ours and theirs apart.
func (d Drift) MarshalJSON() ([]byte, error) {
	out := driftJSON{Application: d.Application, Revision: d.Revision, Drifted: !d.Empty(), Healed: d.Healed, Fate: d.Fate,
		Fields: []driftedJSON{}, SetByOthers: []driftedJSON{}, Ignored: d.Left}
	for _, c := range d.Ours {
		if c.Action == Create {
			out.Fields = append(out.Fields, driftedJSON{refJSON: refJSON(c.Ref), Deleted: true})
		}
		for _, f := range swapped(c.Fields) {
			out.Fields = append(out.Fields, driftedJSON{refJSON: refJSON(c.Ref), Path: f.Path, Declared: f.Old, Live: f.New,
				Secret: f.Secret, Manager: f.TakenFrom, Time: known(f.TakenAt)})
		}
	}
	for _, t := range d.Theirs {
		for _, path := range t.Fields {
			out.SetByOthers = append(out.SetByOthers, driftedJSON{refJSON: refJSON(t.Ref), Path: path, Manager: t.Manager, Time: known(t.Time)})
		}
	}
	return marshal(out)
}

func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
