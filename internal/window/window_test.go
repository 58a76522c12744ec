package window

import (
	"strings"
	"testing"
	"time"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	out, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAt(t *testing.T) {
	work := Window{Allow, "0 8 * * 1-5", 9 * time.Hour, "Europe/Berlin"}
	freeze := Window{Deny, "0 0 24 12 *", 72 * time.Hour, ""}
	night := Window{Deny, "0 1 * * *", 4 * time.Hour, "Europe/Berlin"}
	missing := Window{Deny, "30 2 * * *", time.Hour, "Europe/Berlin"}
	hourly := Window{Deny, "0 * * * *", time.Hour, ""}
	for name, c := range map[string]struct {
		windows    []Window
		now, until string // empty until: it may begin
		says       string
	}{
		"no windows":                       {nil, "2026-03-02T03:00:00Z", "", ""},
		"inside of an allow":               {[]Window{work}, "2026-03-02T07:00:00Z", "", ""},
		"just before it":                   {[]Window{work}, "2026-03-02T06:59:59Z", "2026-03-02T07:00:00Z", `the next is "0 8 * * 1-5" Europe/Berlin`},
		"at its end":                       {[]Window{work}, "2026-03-02T16:00:00Z", "2026-03-03T07:00:00Z", "no Allow window is open"},
		"just before its end":              {[]Window{work}, "2026-03-02T15:59:59Z", "", ""},
		"over the weekend":                 {[]Window{work}, "2026-03-06T18:00:00Z", "2026-03-09T07:00:00Z", ""},
		"the zone's summer":                {[]Window{work}, "2026-07-01T06:00:00Z", "", ""},
		"the zone's winter":                {[]Window{work}, "2026-01-05T06:00:00Z", "2026-01-05T07:00:00Z", ""},
		"a deny wins":                      {[]Window{work, freeze}, "2026-12-24T10:00:00Z", "2026-12-27T00:00:00Z", `Deny window "0 0 24 12 *" UTC`},
		"a deny alone denies nothing else": {[]Window{freeze}, "2026-12-23T10:00:00Z", "", ""},
		"the last of several denies":       {[]Window{night, freeze}, "2026-12-25T01:00:00Z", "2026-12-27T00:00:00Z", ""},
		"the clocks go forward: from 1 to 6, of real time 4 hours": {[]Window{night}, "2026-03-29T03:59:59Z", "2026-03-29T04:00:00Z", ""},
		"and after that":                   {[]Window{night}, "2026-03-29T04:00:00Z", "", ""},
		"the clocks go back: from 1 to 4":  {[]Window{night}, "2026-10-25T02:59:59Z", "2026-10-25T03:00:00Z", ""},
		"a time that the clocks leave out": {[]Window{missing}, "2026-03-29T01:30:00Z", "", ""},
		"a time that comes twice: the first and the second, as one opening": {[]Window{missing}, "2026-10-25T00:45:00Z", "2026-10-25T02:30:00Z", ""},
		"openings that touch never end, as far as is looked":                {[]Window{hourly}, "2026-01-01T00:30:00Z", "2027-01-02T01:00:00Z", ""},
	} {
		w, err := Parse(c.windows)
		if err != nil {
			t.Fatal(name, err)
		}
		may, until, why := w.At(at(t, c.now))
		if may != (c.until == "") || (c.until != "" && !until.Equal(at(t, c.until))) || !strings.Contains(why, c.says) {
			t.Errorf("%s: %v until %s, %q; want until %q, %q", name, may, until.UTC().Format(time.RFC3339), why, c.until, c.says)
		}
	}
}

// Until is a promise: before it the answer stays, at it the answer is another one or a later until.
func TestUntilIsWhenItChanges(t *testing.T) {
	w, err := Parse([]Window{{Allow, "0 6,18 * * *", 3 * time.Hour, "America/New_York"}, {Deny, "0 7 * * 3", 90 * time.Minute, "Asia/Kolkata"}, {Deny, "15 19 * * *", time.Hour, ""}})
	if err != nil {
		t.Fatal(err)
	}
	for now := at(t, "2026-10-30T00:00:00Z"); now.Before(at(t, "2026-11-05T00:00:00Z")); now = now.Add(7 * time.Minute) {
		may, until, _ := w.At(now)
		if may {
			continue
		}
		if !until.After(now) {
			t.Fatalf("%s: until %s", now, until)
		}
		if may, _, _ := w.At(until.Add(-time.Second)); may {
			t.Errorf("%s: it may begin before %s", now, until)
		}
	}
}

func TestMistakesAreToldByTheirField(t *testing.T) {
	_, err := Parse([]Window{
		{"allow", "0 8 * * *", time.Hour, ""}, {Allow, "0 8 * *", time.Hour, ""}, {Allow, "0 25 * * *", time.Hour, ""}, {Deny, "0 0 30 2 *", time.Hour, ""},
		{Deny, "0 8 * * *", time.Second, "Europe/Atlantis"}, {Deny, "CRON_TZ=Europe/Berlin 0 8 * * *", time.Hour, "Local"}, {Deny, "CRON_TZ=x", time.Hour, ""},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`windows[0].kind: "allow"`, `windows[1].schedule: "0 8 * *" is no cron schedule`, "windows[2].schedule", `windows[3].schedule: "0 0 30 2 *" never comes`,
		"windows[4].duration: 1s", `windows[4].timeZone: "Europe/Atlantis"`, "windows[5].schedule", "windows[5].timeZone", "windows[6].schedule"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in\n%v", want, err)
		}
	}
}
