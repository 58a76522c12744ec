package wire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestFrames(t *testing.T) {
	var pipe bytes.Buffer
	c := NewConn(&pipe, &pipe)
	if err := c.Send(Ask, Question{Op: Stat, Path: "a"}); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(Object, Piece{Origin: "x", YAML: 2}, []byte("ab"), []byte("cd")); err != nil {
		t.Fatal(err)
	}
	f, err := c.Read()
	var q Question
	if err != nil || f.Type != Ask || f.Decode(&q) != nil || q.Path != "a" || q.Op != Stat || len(f.Body) != 0 {
		t.Errorf("%+v %v", f, err)
	}
	f, err = c.Read()
	var p Piece
	if err != nil || f.Decode(&p) != nil || p.Origin != "x" || string(f.Body) != "abcd" {
		t.Errorf("%+v %v", f, err)
	}
	if _, err := c.Read(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func TestFramesThatLie(t *testing.T) {
	for name, bytes := range map[string]string{
		"too long":           "\xff\xff\xff\xffJ",
		"too short":          "\x00\x00\x00\x04J\x00\x00\x00\x00",
		"head longer":        "\x00\x00\x00\x06J\x00\x00\x00\x02x",
		"ends in the header": "\x00\x00\x00\x10J",
		"ends in the head":   "\x00\x00\x00\x10J\x00\x00\x00\x05abc",
	} {
		_, err := NewConn(strings.NewReader(bytes), io.Discard).Read()
		if !errors.Is(err, ErrFrame) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := NewConn(nil, io.Discard).Send(Answer, Reply{}, make([]byte, MaxFrame)); !errors.Is(err, ErrFrame) {
		t.Errorf("a frame over the limit is sent: %v", err)
	}
}

// What is read is what was sent, and what was not sent by anybody is refused without reserving memory for it.
func FuzzRead(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x07J\x00\x00\x00\x02{}"))
	f.Add([]byte("\x03\xff\xff\xffJ\x00\x00\x00\x02{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := NewConn(bytes.NewReader(data), io.Discard)
		c.Max = 1 << 16
		for {
			frame, err := c.Read()
			if err != nil {
				return
			}
			var again bytes.Buffer
			if len(frame.Head)+len(frame.Body) > len(data) {
				t.Fatal("more than there was")
			}
			_ = NewConn(nil, &again)
		}
	})
}
