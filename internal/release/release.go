// Package release writes what Helm keeps of a release, so that helm list, history and get see what was deployed without Helm: a
// Secret of type helm.sh/release.v1 for each revision. It is pure; package pipeline brings the Secrets to the cluster.
//
// A release that is written here holds the chart's metadata and no templates: helm shows it, and does not roll back to it. Helm's
// own releases are read and kept as they are, but for their status.
package release

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// Status of a release, in Helm's words.
type Status string

const (
	Deployed   Status = "deployed"
	Superseded Status = "superseded"
	Failed     Status = "failed"
)

// Type of the Secrets.
const Type = "helm.sh/release.v1"

// Release is one revision of a release.
type Release struct {
	Name      string
	Namespace string
	Version   int // from 1
	Status    Status
	First     time.Time // when its first revision was deployed
	Last      time.Time
	Describe  string
	Chart     json.RawMessage // Chart.yaml
	Config    json.RawMessage // the values that were given
	Manifest  string
}

// info is Helm's release.Info.
type info struct {
	First       time.Time `json:"first_deployed"`
	Last        time.Time `json:"last_deployed"`
	Deleted     string    `json:"deleted"`
	Description string    `json:"description"`
	Status      Status    `json:"status"`
}

// SecretName is what Helm calls the Secret of a revision.
func SecretName(name string, version int) string {
	return fmt.Sprintf("sh.helm.release.v1.%s.v%d", name, version)
}

// Labels are how Helm finds the Secret.
func (r Release) Labels() map[string]string {
	return map[string]string{"name": r.Name, "owner": "helm", "status": string(r.Status), "version": strconv.Itoa(r.Version)}
}

// Encode is what the Secret holds under "release".
func (r Release) Encode() ([]byte, error) {
	content, err := json.Marshal(map[string]any{
		"name": r.Name, "namespace": r.Namespace, "version": r.Version, "manifest": r.Manifest, "config": r.Config,
		"info":  info{First: r.First, Last: r.Last, Description: r.Describe, Status: r.Status},
		"chart": map[string]any{"metadata": r.Chart, "lock": nil, "templates": []any{}, "values": map[string]any{}, "schema": nil, "files": []any{}},
	})
	if err != nil {
		return nil, fmt.Errorf("encode release %s: %w", r.Name, err)
	}
	return pack(content)
}

// Mark returns what a Secret holds with another status, and with nothing else changed.
func Mark(held []byte, status Status) ([]byte, error) {
	content, err := unpack(held)
	if err != nil {
		return nil, err
	}
	var fields, about map[string]json.RawMessage
	if err := json.Unmarshal(content, &fields); err != nil {
		return nil, errors.New("the release cannot be read")
	}
	if err := json.Unmarshal(fields["info"], &about); err != nil {
		return nil, errors.New("the release says nothing of its status")
	}
	about["status"] = json.RawMessage(strconv.Quote(string(status)))
	if fields["info"], err = json.Marshal(about); err != nil {
		return nil, err
	}
	if content, err = json.Marshal(fields); err != nil {
		return nil, err
	}
	return pack(content)
}

// FirstDeployed is when the first revision was, by a later one.
func FirstDeployed(held []byte) (time.Time, bool) {
	content, err := unpack(held)
	if err != nil {
		return time.Time{}, false
	}
	var r struct {
		Info struct {
			First time.Time `json:"first_deployed"`
		}
	}
	err = json.Unmarshal(content, &r)
	return r.Info.First, err == nil && !r.Info.First.IsZero()
}

// pack and unpack are Helm's: gzip, and base64 besides that of the Secret.
func pack(content []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return []byte(base64.StdEncoding.EncodeToString(out.Bytes())), nil
}

// most bounds what a release is unpacked to: anybody who may write Secrets may have written it.
const most = 16 << 20

func unpack(held []byte) ([]byte, error) {
	zipped, err := base64.StdEncoding.DecodeString(string(held))
	if err != nil {
		return nil, errors.New("the release is no base64")
	}
	r, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		return nil, errors.New("the release is not compressed as Helm does it")
	}
	content, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil || len(content) > most {
		return nil, errors.New("the release is damaged, or too large")
	}
	return content, nil
}
