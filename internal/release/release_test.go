package release

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

var sample = Release{Name: "web", Namespace: "shop", Version: 3, Status: Deployed, First: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
	Last: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC), Describe: "gitopsd, commit 01234567", Chart: json.RawMessage(`{"name":"c","version":"1.0.0"}`),
	Config: json.RawMessage(`{"a":1}`), Manifest: "---\na: b\n"}

// What is written can be read as Helm reads it (that helm itself does, the end-to-end tests show), and marking changes the status
// and nothing else.
func TestEncodeAndMark(t *testing.T) {
	held, err := sample.Encode()
	if err != nil {
		t.Fatal(err)
	}
	marked, err := Mark(held, Superseded)
	if err != nil {
		t.Fatal(err)
	}
	before, after := fields(t, held), fields(t, marked)
	if before["info"].(map[string]any)["status"] != "deployed" || after["info"].(map[string]any)["status"] != "superseded" {
		t.Errorf("%v, then %v", before["info"], after["info"])
	}
	after["info"].(map[string]any)["status"] = "deployed"
	a, _ := json.Marshal(before)
	b, _ := json.Marshal(after)
	if !bytes.Equal(a, b) {
		t.Errorf("%s\nand then\n%s", a, b)
	}
	if first, ok := FirstDeployed(marked); !ok || !first.Equal(sample.First) {
		t.Errorf("first deployed %v %v", first, ok)
	}
	if SecretName("web", 3) != "sh.helm.release.v1.web.v3" || sample.Labels()["version"] != "3" || sample.Labels()["owner"] != "helm" {
		t.Errorf("%s %v", SecretName("web", 3), sample.Labels())
	}
}

func fields(t *testing.T, held []byte) map[string]any {
	t.Helper()
	content, err := unpack(held)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(content, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// Anybody who may write Secrets may have written a release: what is none is refused, and a bomb does not go off.
func TestHostileReleases(t *testing.T) {
	zip := func(content []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		_, _ = w.Write(content)
		_ = w.Close()
		return []byte(base64.StdEncoding.EncodeToString(out.Bytes()))
	}
	for what, held := range map[string][]byte{
		"nothing": nil, "no base64": []byte("%"), "no gzip": []byte("aGVsbG8="), "no JSON": zip([]byte("x")), "no info": zip([]byte("{}")),
		"a bomb": zip([]byte(`{"info":{},"manifest":"` + strings.Repeat("x", most) + `"}`)),
	} {
		if _, err := Mark(held, Failed); err == nil {
			t.Errorf("%s was taken", what)
		}
		if _, ok := FirstDeployed(held); ok {
			t.Errorf("%s says when it was deployed", what)
		}
	}
}
