package engine

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io/fs"

	"github.com/gitopsd/gitopsd/internal/redact"
	"github.com/gitopsd/gitopsd/internal/render"
	"github.com/gitopsd/gitopsd/internal/render/sops"
)

// decrypting are files of which those that SOPS encrypted are shown as plain text. It exists in the sandbox alone, and with it
// the plain text and the keys: who answers the questions knows the encrypted bytes, and keeps their hash.
type decrypting struct {
	fs.FS
	keys     *sops.Keys
	secret   redact.Set        // what was decrypted
	failed   *render.Error     // the first file that could not be
	unopened *render.Error     // the same, of files that nothing may need
	plain    map[string][]byte // what was decrypted, by name
}

var (
	_ fs.ReadDirFS  = (*decrypting)(nil)
	_ fs.ReadFileFS = (*decrypting)(nil)
	_ fs.StatFS     = (*decrypting)(nil)
	_ fs.ReadLinkFS = (*decrypting)(nil)
)

func decrypt(fsys fs.FS, keys *render.Keys) (*decrypting, error) {
	parsed, err := sops.ParseKeys(keys.Age, keys.PGP)
	if err != nil {
		return nil, &render.Error{Class: render.ErrInvalid, Text: err.Error(), Next: "correct the Secret of spec.render.decrypt"}
	}
	return &decrypting{FS: fsys, keys: parsed, plain: map[string][]byte{}}, nil
}

func (d *decrypting) Stat(name string) (fs.FileInfo, error)      { return fs.Stat(d.FS, name) }
func (d *decrypting) Lstat(name string) (fs.FileInfo, error)     { return fs.Lstat(d.FS, name) }
func (d *decrypting) ReadLink(name string) (string, error)       { return fs.ReadLink(d.FS, name) }
func (d *decrypting) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(d.FS, name) }

// ReadFile fails for an encrypted file that none of the keys opens.
func (d *decrypting) ReadFile(name string) ([]byte, error) {
	data, failed, err := d.read(name)
	if failed != nil {
		if d.failed == nil {
			d.failed = failed
		}
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New(failed.Text)}
	}
	return data, err
}

// readIfOpen leaves a file as it is that none of the keys opens: a chart's folder may hold values of other places.
func (d *decrypting) readIfOpen(name string) ([]byte, error) {
	data, failed, err := d.read(name)
	if failed != nil && d.unopened == nil {
		d.unopened = failed
	}
	return data, err
}

func (d *decrypting) read(name string) (data []byte, failed *render.Error, err error) {
	if plain, ok := d.plain[name]; ok {
		return bytes.Clone(plain), nil, nil
	}
	data, err = fs.ReadFile(d.FS, name)
	if err != nil {
		return nil, nil, err
	}
	plain, secret, err := sops.Decrypt(name, data, d.keys)
	switch {
	case errors.Is(err, sops.ErrPlain):
		return data, nil, nil
	case err != nil:
		return data, &render.Error{Class: render.ErrInvalid, File: name, Text: "the file cannot be decrypted: " + err.Error(), Next: "add the key to the Secret of spec.render.decrypt, or encrypt the file for one of its keys"}, nil
	}
	d.secret.Register(secret...)
	d.plain[name] = plain
	return bytes.Clone(plain), nil, nil
}

// clean takes what was decrypted out of an error, and blames the file that could not be.
func (d *decrypting) clean(err error) error {
	if d.failed != nil {
		return d.failed
	}
	var e *render.Error
	if errors.As(err, &e) {
		e.Text, e.Object, e.Next = d.secret.String(e.Text), d.secret.String(e.Object), d.secret.String(e.Next)
		return e
	}
	return errors.New(d.secret.String(err.Error()))
}

// mark is what every value begins with that SOPS encrypted, as it is and as base64 has it at the three places of a byte in a group.
var marks = func() [][]byte {
	mark := []byte("ENC[AES256_GCM,data:")
	out := [][]byte{mark}
	for before := range 3 {
		text := base64.StdEncoding.EncodeToString(append(make([]byte, before), mark...))
		skip := []int{0, 2, 3}[before] // these characters, and the last ones, hold bits of the neighbours
		out = append(out, []byte(text[skip:len(text)-4]))
	}
	return out
}()

// refuseEncrypted refuses objects that hold what SOPS encrypted: nobody in the cluster would decrypt it.
func refuseEncrypted(objects []render.Raw, d *decrypting) error {
	for _, o := range objects {
		for _, mark := range marks {
			if !bytes.Contains(o.JSON, mark) {
				continue
			}
			if d != nil && d.unopened != nil {
				return d.unopened
			}
			next := "name the Secret with its keys in spec.render.decrypt"
			if d != nil {
				next = "encrypt whole files, which are decrypted, and not values inside of others"
			}
			return &render.Error{Class: render.ErrInvalid, File: o.Origin, Text: "it holds values that SOPS encrypted, and they would be applied as they are", Next: next}
		}
	}
	return nil
}
