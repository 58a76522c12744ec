package render

import (
	"encoding/json"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/gitopsd/gitopsd/internal/render/wire"
)

// shapes are objects that take much more memory than their text.
func shapes() map[string]string {
	var keys strings.Builder
	for n := range 10_000 {
		keys.WriteString(`"` + itoa(n) + `":1,`)
	}
	deep := strings.Repeat(`{"a":`, 5_000) + "1" + strings.Repeat("}", 5_000)
	return map[string]string{
		"small maps":    "[" + strings.Repeat(`{"b":0},`, 20_000) + "0]",
		"empty maps":    "[" + strings.Repeat("{},", 20_000) + "0]",
		"lists":         "[" + strings.Repeat("[0],", 20_000) + "0]",
		"short texts":   "[" + strings.Repeat(`"a",`, 20_000) + "0]",
		"fractions":     "[" + strings.Repeat("0.5,", 20_000) + "0]",
		"many keys":     "{" + keys.String() + `"x":0}`,
		"maps of nine":  "[" + strings.Repeat(`{"a":0,"b":0,"c":0,"d":0,"e":0,"f":0,"g":0,"h":0,"i":0},`, 3_000) + "0]",
		"deep maps":     "[" + strings.Repeat(deep+",", 4) + "0]",
		"one long text": `"` + strings.Repeat(`\\\"[{:,`, 20_000) + `"`,
	}
}

func objectOf(value string) wire.Frame {
	head, _ := json.Marshal(wire.Piece{Origin: "a.yaml:1"})
	return wire.Frame{Type: wire.Object, Head: head, Body: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":` + value + `}`)}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// What is reckoned is no less than what is taken, whatever the shape.
func TestWeigh(t *testing.T) {
	for name, value := range shapes() {
		frame := objectOf(value)
		before := heap()
		o, err := decode(Raw{JSON: frame.Body})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if taken, weight := heap()-before, weigh(frame.Body); taken > weight {
			t.Errorf("%s: %d bytes of JSON take %d, and weigh %d", name, len(frame.Body), taken, weight)
		}
		runtime.KeepAlive(o)
	}
	if text := shapes()["one long text"]; weigh([]byte(text)) > 2*int64(len(text)) {
		t.Error("a text weighs as if it were what stands in it")
	}
}

// However a worker fills what it may send, the daemon's side stays within the limit.
func TestObjectsAreBoundedInMemory(t *testing.T) {
	limits := Limits{}.withDefaults()
	all := shapes()
	for _, name := range []string{"small maps", "maps of nine"} {
		value := all[name]
		j := &job{path: "a", limits: limits}
		before := heap()
		var err error
		for err == nil {
			err = j.object(objectOf(value))
		}
		if !errors.Is(err, ErrLimit) {
			t.Fatalf("%s: %v", name, err)
		}
		var objects []Object
		for _, r := range j.raw {
			o, err := decode(r)
			if err != nil {
				t.Fatal(err)
			}
			objects = append(objects, o)
		}
		if taken := heap() - before; taken > limits.Decoded+limits.Output {
			t.Errorf("%s: %d objects take %d MiB", name, len(objects), taken>>20)
		}
		runtime.KeepAlive(j)
		runtime.KeepAlive(objects)
	}
	j := &job{path: "a", limits: limits}
	err := j.object(objectOf(`{"k":"` + strings.Repeat("a", mostOfOne) + `"}`))
	if e := (*Error)(nil); !errors.As(err, &e) || e.File != "a.yaml" || !strings.Contains(e.Text, "more than 3 MiB") {
		t.Errorf("error: %v", err)
	}
}
