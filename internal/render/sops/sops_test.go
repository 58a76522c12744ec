package sops

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"
	"github.com/ProtonMail/go-crypto/openpgp"
	pgparmor "github.com/ProtonMail/go-crypto/openpgp/armor"
)

// testdata holds files that the program sops encrypted for keys.agekey (NAME.enc.EXT) and what it decrypted them to (NAME.EXT);
// TestOracle makes them with -update.

func testKeys() (*Keys, error) {
	text, err := os.ReadFile("testdata/keys.agekey")
	if err != nil {
		return nil, err
	}
	return ParseKeys([]string{string(text)}, nil)
}

// sample are files in every format, with the corners that the MAC and the plain text depend on.
var sample = map[string]string{
	"plain.yaml": "# over all\napiVersion: v1\nkind: Secret\nmetadata:\n    name: db # beside\n    labels: {a: b}\nstringData:\n    # of the password\n    password: canary-4711 # beside it\n" +
		"    port: \"5432\"\n    multi: |\n        line one\n        line two\n    empty: \"\"\n    nothing: null\n    yes: true\n    float: 1.5\n    int: 42\n    big: 9007199254740993\n    list:\n        - a\n        - {b: c}\n        - []\n    none: {}\n# at the end\n",
	"several.yaml":    "a: canary-4711\n---\nb: 2\n---\n# only a comment\nc: [x, y]\n",
	"anchors.yaml":    "base: &b\n    x: canary-4711\nuse: *b\n",
	"time.yaml":       "at: 2024-01-02T03:04:05Z\nday: 2024-01-02\n",
	"plain.json":      `{"z": "canary-4711", "a": {"n": 1, "f": 1.25, "t": true, "e": "", "x": null, "l": ["<&>", {"k": 12345678901}], "o": {}, "p": []}}`,
	"plain.env":       "# a comment\nPASSWORD=canary-4711\nMULTI=one\\ntwo\nEMPTY=\nEQUALS=a=b\n",
	"plain.ini":       "; of the section\n[database]\n; of the key\npassword = canary-4711\nport = 5432\nquoted = \"a # b\"\n\n[other]\nx = y\n",
	"plain.txt":       "canary-4711\x00\xff\nbinary\n",
	"values.yaml.txt": "password: canary-4711\n",
}

// someRules are the ways to encrypt a part, by the sample that they are tried on.
var someRules = [][]string{
	nil,
	{"encrypted_regex: ^(data|stringData)$"}, {"unencrypted_regex: ^(apiVersion|kind|metadata)$"},
	{"encrypted_suffix: word"}, {"unencrypted_suffix: port"},
	{"encrypted_comment_regex: of the"}, {"unencrypted_comment_regex: beside"},
	{"encrypted_regex: ^stringData$", "mac_only_encrypted: true"},
}

var built string // folder of the program, which is large

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

var sopsTool = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gitopsd-oracle-sops")
	if err != nil {
		return "", err
	}
	built = dir
	cmd := exec.Command("go", "install", "github.com/getsops/sops/v3/cmd/sops@v3.13.2")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build sops: %w: %s", err, out)
	}
	return filepath.Join(dir, "sops"), nil
})

// sops runs the program with these keys and nothing else of this machine.
func sops(t *testing.T, dir, ageFile, gnupg string, args ...string) ([]byte, error) {
	t.Helper()
	program, err := sopsTool()
	if err != nil {
		t.Skip(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	cmd.Env = []string{"HOME=" + t.TempDir(), "SOPS_AGE_KEY_FILE=" + ageFile, "GNUPGHOME=" + gnupg, "PATH=" + os.Getenv("PATH")}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("sops %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.Bytes(), nil
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// Files that sops encrypted come out with the bytes of sops --decrypt.
func TestOracle(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ageFile := writeFile(t, filepath.Join(dir, "keys.agekey"), "# a comment\n"+id.String()+"\n")
	keys, err := ParseKeys([]string{"# a comment\n" + id.String() + "\n"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range sample {
		for _, rule := range someRules {
			t.Run(name+strings.Join(rule, ""), func(t *testing.T) {
				dir := t.TempDir()
				writeFile(t, filepath.Join(dir, name), text)
				writeFile(t, filepath.Join(dir, ".sops.yaml"), "creation_rules:\n- "+strings.Join(append(rule, "age: "+id.Recipient().String()), "\n  ")+"\n")
				encrypted, err := sops(t, dir, ageFile, "", "encrypt", name)
				if err != nil {
					t.Fatal(err)
				}
				writeFile(t, filepath.Join(dir, name), string(encrypted))
				want, err := sops(t, dir, ageFile, "", "decrypt", name)
				if err != nil {
					t.Fatal(err)
				}
				got, secret, err := Decrypt(name, encrypted, keys)
				if !Marked(encrypted[:bytes.LastIndex(encrypted, []byte("mac"))]) && errors.Is(err, ErrPlain) {
					t.Skip("the rule encrypts nothing")
				}
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%v\ngot\n%s\nwant\n%s\nof\n%s", err, got, want, encrypted)
				}
				if len(rule) == 0 && strings.Contains(text, "canary") && !strings.Contains(strings.Join(secret, " "), "canary-4711") {
					t.Errorf("the values are %q", secret)
				}
			})
		}
	}
}

// OpenPGP keys open files as age keys do; so do groups of keys of which each has a part.
func TestOracleOpenPGPAndGroups(t *testing.T) {
	dir := t.TempDir()
	private, fingerprint := pgpKey(t, dir)
	var ids []*age.X25519Identity
	var ageText string
	for range 3 {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
		ageText += id.String() + "\n"
	}
	ageFile := writeFile(t, filepath.Join(dir, "keys.txt"), ageText)
	name := "plain.yaml"
	for what, c := range map[string]struct {
		config   string
		age, pgp []string
		opens    bool
	}{
		"OpenPGP":              {"pgp: " + fingerprint, nil, []string{private}, true},
		"both, by one":         {"pgp: " + fingerprint + "\n  age: " + ids[0].Recipient().String(), nil, []string{private}, true},
		"another key":          {"age: " + ids[0].Recipient().String(), []string{ids[1].String()}, []string{private}, false},
		"no key":               {"age: " + ids[0].Recipient().String(), nil, nil, false},
		"all three groups":     {groups(3, ids), []string{ids[0].String(), ids[1].String(), ids[2].String()}, nil, true},
		"two of three groups":  {groups(2, ids), []string{ids[2].String(), ids[0].String()}, nil, true},
		"one of three groups":  {groups(2, ids), []string{ids[1].String()}, nil, false},
		"two, and three asked": {groups(3, ids), []string{ids[0].String() + "\n" + ids[1].String()}, nil, false},
	} {
		t.Run(what, func(t *testing.T) {
			work := t.TempDir()
			writeFile(t, filepath.Join(work, ".sops.yaml"), "creation_rules:\n- path_regex: .*\n  "+c.config+"\n")
			writeFile(t, filepath.Join(work, name), sample[name])
			encrypted, err := sops(t, work, ageFile, filepath.Join(dir, "gnupg"), "encrypt", name)
			if err != nil {
				t.Fatal(err)
			}
			keys, err := ParseKeys(c.age, c.pgp)
			if err != nil {
				t.Fatal(err)
			}
			plain, _, err := Decrypt(name, encrypted, keys)
			if c.opens != (err == nil && strings.Contains(string(plain), "canary-4711")) {
				t.Errorf("%v: %s", err, plain)
			}
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("plain text in %v", err)
			}
		})
	}
}

func groups(threshold int, ids []*age.X25519Identity) string {
	text := fmt.Sprintf("shamir_threshold: %d\n  key_groups:", threshold)
	for _, id := range ids {
		text += "\n  - age: [" + id.Recipient().String() + "]"
	}
	return text
}

// pgpKey makes a key and gives it to a GnuPG home, which sops asks.
func pgpKey(t *testing.T, dir string) (private, fingerprint string) {
	t.Helper()
	gpg, err := exec.LookPath("gpg")
	if err != nil {
		t.Skip("sops needs gpg to encrypt for OpenPGP keys")
	}
	e, err := openpgp.NewEntity("test", "", "test@example.org", nil)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	w, err := pgparmor.Encode(&text, openpgp.PrivateKeyType, nil)
	if err == nil {
		err = errors.Join(e.SerializePrivate(w, nil), w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(dir, "gnupg")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(gpg, "--homedir", home, "--batch", "--import")
	cmd.Stdin = bytes.NewReader(text.Bytes())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() })
	return text.String(), fmt.Sprintf("%X", e.PrimaryKey.Fingerprint)
}

// The files of testdata are decrypted without the program.
func TestDecrypt(t *testing.T) {
	keys, err := testKeys()
	if err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob("testdata/*.enc.*")
	if len(names) < 8 {
		t.Fatalf("only %d files", len(names))
	}
	for _, name := range names {
		encrypted, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(strings.Replace(name, ".enc.", ".", 1))
		if err != nil {
			t.Fatal(err)
		}
		if got, _, err := Decrypt(name, encrypted, keys); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
		// Whatever is changed in it is found, and told without its content.
		for _, change := range [][2]string{{"type:str", "type:int"}, {"ENC[AES256_GCM,data:", "ENC[AES256_GCM,data:AAAA"}, {"lastmodified: \"2", "lastmodified: \"3"}} {
			changed := bytes.ReplaceAll(encrypted, []byte(change[0]), []byte(change[1]))
			if bytes.Equal(changed, encrypted) {
				continue
			}
			if plain, _, err := Decrypt(name, changed, keys); err == nil || plain != nil || strings.Contains(err.Error(), "canary") {
				t.Errorf("%s with %s: %v", name, change[1], err)
			}
		}
	}
}

// What was not encrypted is the MAC's business too: a value that is plain by the rules cannot be changed.
func TestPlainValuesAreAuthenticated(t *testing.T) {
	keys, err := testKeys()
	if err != nil {
		t.Fatal(err)
	}
	encrypted, err := os.ReadFile("testdata/part.enc.yaml")
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(encrypted, []byte("name: db"), []byte("name: evil"), 1)
	if _, _, err := Decrypt("a.yaml", changed, keys); err == nil || !strings.Contains(err.Error(), "MAC") {
		t.Errorf("%v", err)
	}
	swapped := bytes.Replace(encrypted, []byte("    password: ENC"), []byte("    user: ENC"), 1)
	if _, _, err := Decrypt("a.yaml", swapped, keys); err == nil {
		t.Error("a value was moved to another key")
	}
}

// Documents that were encrypted one by one, and plain ones between them, are one file too.
func TestDocumentsOneByOne(t *testing.T) {
	keys, err := testKeys()
	if err != nil {
		t.Fatal(err)
	}
	first, _ := os.ReadFile("testdata/part.enc.yaml")
	second, _ := os.ReadFile("testdata/plain.enc.yaml")
	file := string(first) + "---\nplain: yes\n---\n" + string(second)
	got, _, err := Decrypt("all.yaml", []byte(file), keys)
	if err != nil || strings.Count(string(got), "canary-4711") != 2 || !strings.Contains(string(got), "plain: ") || strings.Contains(string(got), "sops") {
		t.Errorf("%v\n%s", err, got)
	}
}

// What is not encrypted is left alone, whatever it looks like.
func TestPlainFiles(t *testing.T) {
	for name, text := range map[string]string{
		"a.yaml": "a: b\n", "docs.yaml": "sops: is a tool\nx: 'ENC[AES256_GCM,data:'\n", "template.yaml": "{{ if ENC[AES256_GCM, }}\n",
		"a.json": `{"sops": {"x": "ENC[AES256_GCM,"}}`, "x": "ENC[AES256_GCM,", "a.env": "A=ENC[AES256_GCM,\n", "a.ini": "[a]\nb = ENC[AES256_GCM,\n",
	} {
		if _, _, err := Decrypt(name, []byte(text), &Keys{}); !errors.Is(err, ErrPlain) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseKeys(t *testing.T) {
	for _, c := range []struct{ age, pgp, want string }{
		{"AGE-SECRET-KEY-1canary", "", "age-keygen"}, {"", "-----BEGIN canary", "gpg --export-secret-keys"},
	} {
		var ages, pgps []string
		if c.age != "" {
			ages = []string{c.age}
		} else {
			pgps = []string{c.pgp}
		}
		if _, err := ParseKeys(ages, pgps); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%v", err)
		}
	}
}
