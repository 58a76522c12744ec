package network

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/kubernetes/scheme"
)

var update = flag.Bool("update", false, "write the golden files anew")

func testConfig() Config {
	return Config{
		NodeName: "node-a", Bridge: "gdtest0", Table: "gdtest",
		PodCIDR: netip.MustParsePrefix("10.42.0.0/24"), ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"),
		MTU: 1400,
	}
}

// parseState reads objects.yaml (Services and EndpointSlices) and hostports.json of a case.
func parseState(t *testing.T, a *txtar.Archive) State {
	t.Helper()
	s := State{Config: testConfig()}
	for _, f := range a.Files {
		switch f.Name {
		case "objects.yaml":
			for doc := range bytes.SplitSeq(f.Data, []byte("\n---\n")) {
				obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(doc, nil, nil)
				check(t, err)
				switch o := obj.(type) {
				case *corev1.Service:
					s.Services = append(s.Services, o)
				case *discoveryv1.EndpointSlice:
					s.Slices = append(s.Slices, o)
				default:
					t.Fatalf("objects.yaml holds a %T", obj)
				}
			}
		case "hostports.json":
			check(t, json.Unmarshal(f.Data, &s.HostPorts))
		}
	}
	return s
}

func cases(t *testing.T, f func(t *testing.T, path string, a *txtar.Archive)) {
	paths, err := filepath.Glob("testdata/rules/*.txtar")
	check(t, err)
	if len(paths) == 0 {
		t.Fatal("no cases")
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(path)
			check(t, err)
			f(t, path, a)
		})
	}
}

// variable returns what of a ruleset differs between cases: all but the base chains, which base.txtar has, and empty sets.
func variable(r Ruleset, all bool) string {
	if all {
		return r.String()
	}
	short := Ruleset{Table: r.Table}
	for _, s := range r.Sets {
		if len(s.Elements) > 0 || s.Dynamic {
			short.Sets = append(short.Sets, s)
		}
	}
	for _, c := range r.Chains {
		if c.Hook == "" && c.Name != chainDrop {
			short.Chains = append(short.Chains, c)
		}
	}
	return short.String()
}

func TestRules(t *testing.T) {
	cases(t, func(t *testing.T, path string, a *txtar.Archive) {
		got := variable(parseState(t, a).Rules(), filepath.Base(path) == "base.txtar")
		for i, f := range a.Files {
			if f.Name != "rules.nft" {
				continue
			}
			if string(f.Data) == got {
				return
			}
			if !*update {
				t.Fatalf("rules differ; -update writes them anew:\n%s", got)
			}
			a.Files[i].Data = []byte(got)
			check(t, os.WriteFile(path, txtar.Format(a), 0o644))
			return
		}
		if !*update {
			t.Fatal("the case has no rules.nft; -update writes it")
		}
		a.Files = append(a.Files, txtar.File{Name: "rules.nft", Data: []byte(got)})
		check(t, os.WriteFile(path, txtar.Format(a), 0o644))
	})
}

// What the kernel gets must be what is printed: nft's own reading of the text, listed by nft, equals our transaction, listed by nft.
func TestTextIsWhatTheKernelHas(t *testing.T) {
	needKernel(t)
	cases(t, func(t *testing.T, path string, a *txtar.Archive) {
		r := parseState(t, a).Rules()
		tab, err := newTable(r.Table)
		check(t, err)
		_, err = tab.apply(r)
		check(t, err)
		ours := nftList(t, r.Table)
		check(t, tab.remove())
		load := exec.Command("nft", "-f", "-")
		load.Stdin = strings.NewReader(r.String())
		if out, err := load.CombinedOutput(); err != nil {
			t.Fatalf("nft does not read the text: %v\n%s\n%s", err, out, r)
		}
		theirs := nftList(t, r.Table)
		check(t, tab.remove())
		if ours != theirs {
			t.Errorf("we wrote:\n%s\nnft wrote:\n%s", ours, theirs)
		}
	})
}

func nft(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("nft", args...).CombinedOutput(); err != nil {
		t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func nftList(t *testing.T, table string) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "table", "ip", table).CombinedOutput()
	if err != nil {
		t.Fatalf("nft list: %v\n%s", err, out)
	}
	return string(out)
}

func nftTables(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "tables").CombinedOutput()
	if err != nil {
		t.Fatalf("nft list tables: %v\n%s", err, out)
	}
	return string(out)
}

// From every case to every other one by difference, the kernel must have the same as when it is written anew.
func TestDifference(t *testing.T) {
	needKernel(t)
	var states []State
	var names []string
	cases(t, func(t *testing.T, path string, a *txtar.Archive) {
		states, names = append(states, parseState(t, a)), append(names, path)
	})
	want := make([]string, len(states))
	for i, s := range states {
		tab, err := newTable(s.Table)
		check(t, err)
		_, err = tab.apply(s.Rules())
		check(t, err)
		want[i] = sorted(nftList(t, s.Table))
		check(t, tab.remove())
	}
	tab, err := newTable(testConfig().Table)
	check(t, err)
	defer func() { check(t, tab.remove()) }()
	for i := range states {
		for j := range states {
			for _, k := range []int{i, j} {
				_, err := tab.apply(states[k].Rules())
				if err != nil {
					t.Fatalf("from %s to %s: %v", names[i], names[k], err)
				}
				if got := sorted(nftList(t, tab.table.Name)); got != want[k] {
					t.Fatalf("from %s to %s:\n%s\nwant:\n%s", names[i], names[k], got, want[k])
				}
			}
			if changed, err := tab.apply(states[j].Rules()); changed || err != nil {
				t.Fatalf("the same again changed something: %v, %v", changed, err)
			}
			if found, err := tab.look(); found != asLeft || err != nil {
				t.Fatalf("found %v, %v", found, err)
			}
		}
	}
}

// sorted brings chains, sets and elements of a listing in one order: the kernel lists them in the order of their making.
func sorted(listing string) string {
	_, listing, _ = strings.Cut(strings.TrimSuffix(listing, "\t}\n}\n"), "{\n")
	blocks := strings.Split(listing, "\t}\n\n")
	for i, b := range blocks {
		head, elements, ok := strings.Cut(b, "elements = {")
		if !ok {
			continue
		}
		list := strings.Split(strings.TrimSpace(strings.ReplaceAll(elements, "}", "")), ",")
		for j, e := range list {
			list[j] = strings.TrimSpace(e)
		}
		slices.Sort(list)
		blocks[i] = head + strings.Join(list, "\n")
	}
	slices.Sort(blocks)
	return strings.Join(blocks, "\n")
}
