// Package window says when an Application may begin to sync.
//
// In go the windows of its spec and the time; out comes whether a sync may begin now, or else when that may change. It is pure: the
// clock is the caller's. It refuses schedules, durations and zones that cannot be, by the name of the field.
package window

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // machines may have no zone files

	"github.com/robfig/cron/v3"
)

// Kind of a window.
type Kind string

const (
	Allow Kind = "Allow"
	Deny  Kind = "Deny"
)

// Window is open from each time of its schedule for its duration.
type Window struct {
	Kind     Kind
	Schedule string // cron: minute, hour, day of month, month, day of week; in the zone
	Duration time.Duration
	Zone     string // IANA; empty: UTC
}

// Windows are those of one Application, read.
type Windows struct{ all []open }

type open struct {
	Window
	schedule cron.Schedule
	zone     *time.Location
}

// longest a window may be open. A longer one is a setting, not a window.
const longest = 366 * 24 * time.Hour

var parser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)

// Parse reads windows. Every mistake is told at once.
func Parse(windows []Window) (Windows, error) {
	var out Windows
	var errs []error
	for n, w := range windows {
		fail := func(field, format string, args ...any) {
			errs = append(errs, fmt.Errorf("windows[%d].%s: %s", n, field, fmt.Sprintf(format, args...)))
		}
		if w.Kind != Allow && w.Kind != Deny {
			fail("kind", "%q is neither Allow nor Deny", w.Kind)
		}
		if w.Duration < time.Minute || w.Duration > longest {
			fail("duration", "%s is not between 1m and %s", w.Duration, longest)
		}
		zone, err := time.LoadLocation(w.Zone)
		if err != nil || w.Zone == "Local" {
			fail("timeZone", "%q is no time zone; write it as Europe/Berlin, or leave it out for UTC", w.Zone)
		}
		var schedule cron.Schedule
		if strings.Contains(w.Schedule, "=") {
			fail("schedule", "%q names a zone; that belongs into timeZone", w.Schedule)
		} else if schedule, err = parser.Parse(w.Schedule); err != nil {
			fail("schedule", "%q is no cron schedule of five fields, such as \"0 22 * * 1-5\": %v", w.Schedule, err)
		} else if schedule.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
			fail("schedule", "%q never comes", w.Schedule)
		}
		out.all = append(out.all, open{w, schedule, zone})
	}
	return out, errors.Join(errs...)
}

// At says whether a sync may begin at a time. A deny wins; with windows that allow, nothing begins outside of them. If it may not, until
// is when the answer may be another one (zero: never, as far as can be seen) and why names the window.
func (w Windows) At(now time.Time) (may bool, until time.Time, why string) {
	var allows, allowed bool
	var denied time.Time
	for _, o := range w.all {
		end, isOpen := o.openAt(now)
		switch {
		case o.Kind == Deny && isOpen:
			if end.After(denied) {
				denied, why = end, fmt.Sprintf("the Deny window %q%s is open", o.Schedule, zoneName(o.Zone))
			}
		case o.Kind == Allow:
			allows, allowed = true, allowed || isOpen
		}
	}
	if !denied.IsZero() {
		return false, denied, why
	}
	if !allows || allowed {
		return true, time.Time{}, ""
	}
	for _, o := range w.all {
		if next := o.schedule.Next(now.In(o.zone)); o.Kind == Allow && !next.IsZero() && (until.IsZero() || next.Before(until)) {
			until, why = next, fmt.Sprintf("no Allow window is open; the next is %q%s", o.Schedule, zoneName(o.Zone))
		}
	}
	return false, until, why
}

func zoneName(zone string) string {
	if zone == "" {
		return " UTC"
	}
	return " " + zone
}

// openAt says whether the window is open, and until when: openings that overlap are one. The duration is real time, so a
// window over a change of the clocks is as long as any.
func (o open) openAt(now time.Time) (end time.Time, is bool) {
	const atMost = 100_000 // openings looked at; each minute of two months
	at := now.Add(-o.Duration).In(o.zone)
	for range atMost {
		start := o.schedule.Next(at)
		if start.IsZero() || start.After(now) && (!is || start.After(end)) {
			return end, is
		}
		end, is, at = start.Add(o.Duration), true, start
		if end.Sub(now) > longest {
			return end, is
		}
	}
	return end, is
}
