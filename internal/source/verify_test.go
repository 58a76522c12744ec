package source

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitopsd/gitopsd/internal/source/signature"
	"github.com/go-git/go-git/v5/plumbing"
)

// keyring is a home of GnuPG with keys that were made there.
type keyring struct {
	t    *testing.T
	home string
}

func newKeyring(t *testing.T) *keyring {
	t.Helper()
	home, err := os.MkdirTemp("", "gpg") // the agent's socket needs a short path
	if err != nil {
		t.Fatal(err)
	}
	k := &keyring{t, home}
	t.Cleanup(func() {
		k.run("gpgconf", "--kill", "all")
		os.RemoveAll(home)
	})
	return k
}

func (k *keyring) run(program string, args ...string) string {
	k.t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + k.home, "GNUPGHOME=" + k.home}
	out, err := cmd.CombinedOutput()
	if err != nil {
		k.t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// generate makes a key that may sign and returns its fingerprint.
func (k *keyring) generate(user, algorithm, expires string) string {
	k.t.Helper()
	k.run("gpg", "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", user, algorithm, "sign", expires)
	return k.fingerprint(user)
}

func (k *keyring) fingerprint(user string) string {
	for line := range strings.SplitSeq(k.run("gpg", "--batch", "--with-colons", "--list-keys", user), "\n") {
		if f := strings.Split(line, ":"); f[0] == "fpr" {
			return f[9]
		}
	}
	k.t.Fatal("no key of " + user)
	return ""
}

func (k *keyring) export(user string, args ...string) []byte {
	k.t.Helper()
	return []byte(k.run("gpg", append(append([]string{"--batch"}, args...), "--export", user)...))
}

// sshKeygen makes a key pair and returns the private key's file and the public line.
func sshKeygen(t *testing.T, kind, comment string) (file, public string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", kind, "-N", "", "-C", comment, "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v %s", err, out)
	}
	line, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return file, string(line)
}

func (r *repo) signWithSSH(key string) *repo {
	r.git("config", "gpg.format", "ssh")
	r.git("config", "user.signingKey", key)
	return r
}

func (r *repo) signWithGPG(k *keyring, key string) *repo {
	program := filepath.Join(k.home, "gpg-of-the-test")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nGNUPGHOME="+k.home+" exec gpg --batch --no-tty \"$@\"\n"), 0o755); err != nil {
		r.t.Fatal(err)
	}
	r.git("config", "gpg.format", "openpgp")
	r.git("config", "gpg.program", program)
	r.git("config", "user.signingKey", key)
	return r
}

func (r *repo) signed(message string) string {
	r.t.Helper()
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-S", "-m", message)
	return r.git("rev-parse", "HEAD")
}

func keysOf(t *testing.T, data map[string]string) *signature.Keys {
	t.Helper()
	raw := map[string][]byte{}
	for name, value := range data {
		raw[name] = []byte(value)
	}
	keys, err := signature.ParseKeys(raw)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func snapshotOf(t *testing.T, s *Store, spec Spec) Snapshot {
	t.Helper()
	snap, err := s.Snapshot(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func refuses(t *testing.T, snap Snapshot, keys *signature.Keys, now time.Time, says string) {
	t.Helper()
	if signer, err := snap.Verify(keys, now); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("signed by %q, error %v; wants one that says %q", signer, err, says)
	}
}

func passes(t *testing.T, snap Snapshot, keys *signature.Keys, says ...string) {
	t.Helper()
	signer, err := snap.Verify(keys, time.Now())
	if err != nil {
		t.Errorf("%v", err)
		return
	}
	for _, s := range says {
		if !strings.Contains(signer.String(), s) {
			t.Errorf("signer %q does not hold %q", signer, s)
		}
	}
}

func TestVerifySSH(t *testing.T) {
	ann, annPub := sshKeygen(t, "ed25519", "ann@laptop")
	_, bobPub := sshKeygen(t, "ecdsa", "bob@laptop")
	rsa, rsaPub := sshKeygen(t, "rsa", "old@laptop")
	r := newRepo(t)
	r.write("a", "1").commit("unsigned")
	s := openStore(t, Limits{})
	unsigned := snapshotOf(t, s, Spec{URL: r.dir})
	r.signWithSSH(ann).signed("signed\n\ngpgsig -----BEGIN SSH SIGNATURE-----\n in the message")
	signed := snapshotOf(t, s, Spec{URL: r.dir})
	now := time.Now()

	passes(t, signed, keysOf(t, map[string]string{"ann.pub": annPub, "bob.pub": bobPub}), "SSH key SHA256:", "ann@laptop")
	passes(t, signed, keysOf(t, map[string]string{"allowed_signers": "# who\nann@example.org,x " + annPub}), "ann@example.org")
	passes(t, signed, keysOf(t, map[string]string{"allowed_signers": `ann@example.org namespaces="file,git",valid-after="20200101",valid-before="20990101Z" ` + annPub}))
	refuses(t, unsigned, keysOf(t, map[string]string{"ann.pub": annPub}), now, "it is not signed")
	refuses(t, signed, keysOf(t, map[string]string{"bob.pub": bobPub}), now, "none of the given keys")
	refuses(t, signed, keysOf(t, map[string]string{"allowed_signers": `ann valid-before="20200101" ` + annPub}), now, "at other times only")
	refuses(t, signed, keysOf(t, map[string]string{"allowed_signers": `ann valid-after="20990101" ` + annPub}), now, "at other times only")
	refuses(t, signed, keysOf(t, map[string]string{"bob.pub": bobPub, "allowed_signers": `ann namespaces="file" ` + annPub}), now, "none of the given keys")

	r.signWithSSH(rsa).signed("by an RSA key")
	passes(t, snapshotOf(t, s, Spec{URL: r.dir}), keysOf(t, map[string]string{"old.pub": rsaPub}), "old@laptop")
}

func TestVerifyOpenPGP(t *testing.T) {
	k := newKeyring(t)
	ann := k.generate("Ann <ann@example.org>", "ed25519", "never")
	bob := k.generate("Bob <bob@example.org>", "rsa2048", "never")
	brief := k.generate("Brief <brief@example.org>", "ed25519", "1d")
	r := newRepo(t)
	s := openStore(t, Limits{})
	by := func(key string) Snapshot {
		r.write("a", key).signWithGPG(k, key).signed("by " + key)
		return snapshotOf(t, s, Spec{URL: r.dir})
	}
	now := time.Now()
	byAnn, byBob, byBrief := by(ann), by(bob), by(brief)
	annKey := map[string]string{"ann.asc": string(k.export(ann, "--armor"))}
	passes(t, byAnn, keysOf(t, annKey), "OpenPGP key "+ann, "Ann <ann@example.org>")
	refuses(t, byBob, keysOf(t, annKey), now, "is none of the given keys")
	all := map[string]string{"team.gpg": string(k.export("example.org")), "two.asc": string(k.export(bob, "--armor")) + string(k.export(brief, "--armor"))}
	for _, snap := range []Snapshot{byAnn, byBob, byBrief} {
		passes(t, snap, keysOf(t, all))
	}
	refuses(t, byBrief, keysOf(t, all), now.Add(48*time.Hour), "has expired")

	sub := k.generate("Sub <sub@example.org>", "ed25519", "never")
	k.run("gpg", "--batch", "--passphrase", "", "--quick-add-key", sub, "ed25519", "sign", "never")
	passes(t, by(sub), keysOf(t, map[string]string{"sub.asc": string(k.export(sub, "--armor"))}), sub)

	revocation, err := os.ReadFile(filepath.Join(k.home, "openpgp-revocs.d", ann+".rev"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(k.home, "revocation.asc")
	if err := os.WriteFile(file, []byte(strings.Replace(string(revocation), ":-----BEGIN", "-----BEGIN", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	k.run("gpg", "--batch", "--import", file)
	refuses(t, byAnn, keysOf(t, map[string]string{"ann.asc": string(k.export(ann, "--armor"))}), now, "is revoked")
}

// A tag speaks for a commit that is not signed itself, but only under its own name and for the commit that it names.
func TestVerifyTag(t *testing.T) {
	key, pub := sshKeygen(t, "ed25519", "ann")
	k := newKeyring(t)
	gpg := k.generate("Ann <ann@example.org>", "ed25519", "never")
	keys := keysOf(t, map[string]string{"ann.pub": pub, "ann.asc": string(k.export(gpg, "--armor"))})
	r := newRepo(t)
	first := r.write("a", "1").commit("first")
	r.signWithSSH(key).git("tag", "-s", "-m", "one", "v1.0.0")
	second := r.write("a", "2").commit("second")
	r.signWithGPG(k, gpg).git("tag", "-s", "-m", "two", "v2.0.0")
	r.git("tag", "v3.0.0")
	r.git("update-ref", "refs/tags/v4.0.0", r.git("rev-parse", "refs/tags/v1.0.0"))
	srv := gitHTTP(t, filepath.Dir(r.dir), nil)
	defer srv.Close()
	for _, url := range []string{r.dir, srv.URL + "/repo"} {
		s := openStore(t, Limits{})
		now := time.Now()
		if snap := snapshotOf(t, s, Spec{URL: url}); snap.Commit == second { // the commit is there before its tag is asked for
			refuses(t, snap, keys, now, "it is not signed")
		}
		passes(t, snapshotOf(t, s, Spec{URL: url, Ref: Ref{Tag: "v1.0.0"}}), keys, "SSH key")
		passes(t, snapshotOf(t, s, Spec{URL: url, Ref: Ref{Tag: "v2.0.0"}}), keys, "OpenPGP key")
		passes(t, snapshotOf(t, s, Spec{URL: url, Ref: Ref{Semver: "^2.0.0"}}), keys, "OpenPGP key")
		refuses(t, snapshotOf(t, s, Spec{URL: url, Ref: Ref{Tag: "v3.0.0"}}), keys, now, "it is not signed")
		refuses(t, snapshotOf(t, s, Spec{URL: url, Ref: Ref{Tag: "v4.0.0"}}), keys, now, `calls itself "v1.0.0"`)
		for _, ref := range []Ref{{Tag: "v1.0.0"}, {Semver: "1.x"}} {
			at, err := s.At(Spec{URL: url, Ref: ref}, first)
			if err != nil || at.Ref != "v1.0.0" {
				t.Fatalf("%v %s", err, at.Ref)
			}
			passes(t, at, keys, "SSH key")
		}
	}
}

// Whatever is altered in a signed object breaks its signature, or is none of its meaning.
func TestVerifyAltered(t *testing.T) {
	key, pub := sshKeygen(t, "ed25519", "ann")
	keys := keysOf(t, map[string]string{"ann.pub": pub})
	r := newRepo(t)
	r.write("a", "1").signWithSSH(key).signed("first")
	s := openStore(t, Limits{})
	snap := snapshotOf(t, s, Spec{URL: r.dir})
	raw, err := snap.FS.(*tree).m.raw(plumbing.CommitObject, plumbing.NewHash(snap.Commit))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.VerifyCommit(raw, time.Now()); err != nil {
		t.Fatal(err)
	}
	end := strings.Index(string(raw), "\n -----END SSH")
	lastLine := strings.LastIndex(string(raw[:end]), "\n") // base64 has bits there that mean nothing
	for i := range raw {
		altered := append([]byte(nil), raw...)
		altered[i] ^= 1
		_, err := keys.VerifyCommit(altered, time.Now())
		if err == nil && (i < lastLine || i > end) {
			t.Errorf("byte %d (%q) may be altered", i, raw[i])
		}
	}
	twice := strings.Replace(string(raw), "gpgsig ", "gpgsig x\ngpgsig ", 1)
	if _, err := keys.VerifyCommit([]byte(twice), time.Now()); err == nil || !strings.Contains(err.Error(), "more than one signature") {
		t.Errorf("two signatures: %v", err)
	}
	bare := raw[:strings.Index(string(raw), "gpgsig ")]
	if _, err := keys.VerifyCommit(append(bare, "\nx\n"...), time.Now()); !errors.Is(err, signature.ErrUnsigned) {
		t.Errorf("without a signature: %v", err)
	}
}

// What a key has signed for another purpose is no signature of a commit.
func TestVerifySSHNamespace(t *testing.T) {
	key, pub := sshKeygen(t, "ed25519", "ann")
	keys := keysOf(t, map[string]string{"ann.pub": pub})
	const commit = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor A <a@example.org> 1 +0000\ncommitter A <a@example.org> 1 +0000\n"
	sign := func(namespace, what string) []byte {
		cmd := exec.Command("ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", namespace)
		cmd.Stdin = strings.NewReader(what)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("ssh-keygen -Y sign: %v", err)
		}
		return []byte(commit + "gpgsig " + strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "\n ") + "\n\nmessage\n")
	}
	if _, err := keys.VerifyCommit(sign("git", commit+"\nmessage\n"), time.Now()); err != nil {
		t.Error(err)
	}
	for namespace, what := range map[string]string{"file": commit + "\nmessage\n", "git": commit + "\nanother message\n"} {
		if signer, err := keys.VerifyCommit(sign(namespace, what), time.Now()); err == nil {
			t.Errorf("%s of %q counts as signed by %s", namespace, what, signer)
		}
	}
}

// A signature that can be forged, or one from the future, does not count.
func TestVerifyWeakOpenPGP(t *testing.T) {
	k := newKeyring(t)
	key := k.generate("Old <old@example.org>", "rsa2048", "never")
	keys := keysOf(t, map[string]string{"old.asc": string(k.export(key, "--armor"))})
	const commit = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor A <a@example.org> 1 +0000\ncommitter A <a@example.org> 1 +0000\n"
	payload := filepath.Join(k.home, "payload")
	if err := os.WriteFile(payload, []byte(commit+"\nmessage\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sign := func(args ...string) []byte {
		sig := k.run("gpg", append(append([]string{"--batch", "--quiet", "--no-tty"}, args...), "--armor", "--output", "-", "--detach-sign", payload)...)
		return []byte(commit + "gpgsig " + strings.ReplaceAll(strings.TrimSpace(sig[strings.Index(sig, "-----BEGIN"):]), "\n", "\n ") + "\n\nmessage\n")
	}
	now := time.Now()
	if _, err := keys.VerifyCommit(sign(), now); err != nil {
		t.Error(err)
	}
	if _, err := keys.VerifyCommit(sign("--digest-algo", "SHA1", "--allow-weak-digest-algos"), now); err == nil || !strings.Contains(err.Error(), "SHA") {
		t.Errorf("SHA-1: %v", err)
	}
	if _, err := keys.VerifyCommit(sign(), now.Add(-time.Hour)); err != nil {
		t.Errorf("our clock is an hour behind: %v", err)
	}
	if _, err := keys.VerifyCommit(sign(), now.Add(-365*24*time.Hour)); err == nil || !strings.Contains(err.Error(), "still to come") {
		t.Errorf("a key and a signature that are still to come: %v", err)
	}
	if _, err := keys.VerifyCommit(sign("--default-sig-expire", "1d"), now.Add(48*time.Hour)); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("a signature that has expired: %v", err)
	}
}
