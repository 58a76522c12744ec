// Package webhook lets forges and pipelines say that a repository has changed, so that it is looked at at once.
//
// In go requests that carry a signature; out goes the name of a repository, to whoever follows it. Nothing else of a request is used: what changed
// is found out from the repository itself. A request that is forged is refused, one that is replayed costs one more look, and how often that may
// happen is limited. The package fetches nothing and knows no Application. docs/design/sources.md, "Trust".
package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"golang.org/x/time/rate"
)

const (
	// most is what a body may have, in bytes: ten times the largest that GitHub was seen to send for a push.
	most = 8 << 20
	// atOnce is how many bodies are held at once.
	atOnce = 8
	// bodyTime is how long a body may take to come: who has shown nothing yet holds one of the places that long at most.
	bodyTime = 3 * time.Second
)

// Config is what a Handler needs to know.
type Config struct {
	// Secrets are what senders sign with, by kind: github, gitlab, gitea, generic. Several lines are several secrets, so that one can follow another.
	Secrets func(ctx context.Context) (map[string][]byte, error)
	// Look has a repository looked at now and says how many follow it.
	Look func(repo string) int
	// Heard counts what became of a request; nil: nobody does.
	Heard func(kind, outcome string)
	Log   *slog.Logger
}

// Handler answers POST /hooks/KIND.
func Handler(cfg Config) http.Handler {
	if cfg.Heard == nil {
		cfg.Heard = func(string, string) {}
	}
	h := &handler{Config: cfg, slots: make(chan struct{}, atOnce), pace: rate.NewLimiter(10, 50)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /hooks/{kind}", h.serve)
	return mux
}

type handler struct {
	Config
	slots chan struct{}
	pace  *rate.Limiter
}

// answer is what a sender is told.
type answer struct {
	code    int
	outcome string // for the metric
	text    string
}

func (h *handler) serve(w http.ResponseWriter, req *http.Request) {
	name := req.PathValue("kind")
	kind, known := kinds[name]
	if !known {
		http.Error(w, "there are /hooks/github, /hooks/gitlab, /hooks/gitea and /hooks/generic", http.StatusNotFound)
		return
	}
	a := h.hear(w, req, name, kind)
	h.Heard(name, a.outcome)
	if a.code >= 400 {
		h.Log.Warn("webhook refused", "kind", name, "from", req.RemoteAddr, "why", a.text)
		http.Error(w, a.text, a.code)
		return
	}
	w.WriteHeader(a.code)
	_, _ = io.WriteString(w, a.text+"\n") // the sender may be gone
}

func (h *handler) hear(w http.ResponseWriter, req *http.Request, name string, k kind) answer {
	secrets, err := h.secrets(req.Context(), name)
	if err != nil {
		return answer{http.StatusServiceUnavailable, "unavailable", "the webhook's secret cannot be read now"}
	}
	if len(secrets) == 0 {
		return answer{http.StatusNotFound, "unknown", "no secret is set for " + name + "; put it into the Secret gitopsd-webhook"}
	}
	switch { // before anything is read
	case !k.signed(req.Header):
		return answer{http.StatusUnauthorized, "unsigned", "the request carries no " + k.header}
	case k.plain && !k.valid(req.Header, nil, secrets):
		return answer{http.StatusUnauthorized, "forged", "the token is not our secret"}
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-req.Context().Done():
		return answer{http.StatusServiceUnavailable, "unavailable", "busy"}
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime)) // where there is a connection
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, most))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return answer{http.StatusRequestEntityTooLarge, "refused", "the body is too large"}
	case err != nil:
		return answer{http.StatusBadRequest, "refused", "the body does not come"}
	case !k.valid(req.Header, body, secrets):
		return answer{http.StatusUnauthorized, "forged", "the signature is not that of the body under our secret"}
	case !h.pace.Allow():
		return answer{http.StatusTooManyRequests, "limited", "too many at once; the repository is looked at by its interval"}
	}
	return h.look(k, body)
}

func (h *handler) look(k kind, body []byte) answer {
	repos, err := k.repositories(body)
	if err != nil {
		return answer{http.StatusBadRequest, "refused", err.Error()}
	}
	followed := 0
	for _, repo := range repos { // all of its names: some may follow it by https, others by ssh
		followed += h.Look(repo)
	}
	if followed > 0 {
		return answer{http.StatusAccepted, "accepted", "looking"}
	}
	return answer{http.StatusOK, "unused", "nothing follows this repository"}
}

func (h *handler) secrets(ctx context.Context, name string) ([][]byte, error) {
	all, err := h.Secrets(ctx)
	if err != nil {
		h.Log.Warn("the webhook's secret cannot be read", "err", err)
		return nil, err
	}
	var out [][]byte
	for line := range strings.Lines(string(all[name])) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, []byte(line))
		}
	}
	return out, nil
}

// texts are the values at paths of a JSON document that are texts, in this order.
func texts(body []byte, paths ...string) ([]string, error) {
	var document map[string]any
	if err := json.Unmarshal(body, &document); err != nil {
		return nil, errors.New("the body is no JSON object")
	}
	var out []string
	for _, p := range paths {
		var at any = document
		for part := range strings.SplitSeq(p, ".") {
			m, _ := at.(map[string]any)
			at = m[part]
		}
		if text, ok := at.(string); ok && text != "" {
			out = append(out, text)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the body names no repository at " + strings.Join(paths, ", "))
	}
	return out, nil
}
