package source

import "strings"

// Find returns the commits of a repository that the mirror has and whose hashes begin with prefix, the one used last
// first. It asks nobody.
func (s *Store) Find(spec Spec, prefix string) ([]string, error) {
	a, k, err := spec.parse()
	if err != nil {
		return nil, err
	}
	switch k {
	case ociKind, helmKind:
		return s.findArchives(a, spec, prefix)
	default:
		return s.findCommits(a, prefix)
	}
}

func (s *Store) findCommits(a address, prefix string) ([]string, error) {
	m, err := s.mirror(a)
	if err != nil {
		return nil, classify(s.ctx, a.String(), err)
	}
	var out []string
	for _, h := range m.marked() {
		if strings.HasPrefix(h.String(), prefix) {
			out = append(out, h.String())
		}
	}
	return out, nil
}
