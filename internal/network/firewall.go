package network

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// dropper is a chain of another table that drops or rejects what it does not know, as those of Docker, ufw and firewalld do. Nothing in our
// table can overrule it.
type dropper struct {
	where, how string
	forward    bool // drops what pods send to others; else what they send to the node itself, as to the API
}

func (d dropper) String() string {
	return d.where + ": " + d.how
}

// droppers returns the chains of tables other than own, sorted.
func droppers(own string) ([]dropper, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	var found []dropper
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyINet} {
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, fmt.Errorf("list chains: %w", err)
		}
		for _, c := range chains {
			if c.Hooknum == nil || c.Table.Name == own && family == nftables.TableFamilyIPv4 {
				continue
			}
			forward := *c.Hooknum == *nftables.ChainHookForward
			if !forward && *c.Hooknum != *nftables.ChainHookInput {
				continue
			}
			if how := dropsByDefault(conn, c); how != "" {
				found = append(found, dropper{fmt.Sprintf("table %s %s, chain %s", familyName(family), c.Table.Name, c.Name), how, forward})
			}
		}
	}
	slices.SortFunc(found, func(a, b dropper) int { return strings.Compare(a.String(), b.String()) })
	return found, nil
}

func familyName(f nftables.TableFamily) string {
	return pick(f == nftables.TableFamilyINet, "inet", "ip")
}

// dropsByDefault says how a chain ends for a packet that no rule of it takes.
func dropsByDefault(conn *nftables.Conn, c *nftables.Chain) string {
	if c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
		return "policy drop"
	}
	rules, err := conn.GetRules(c.Table, c)
	if err != nil || len(rules) == 0 {
		return ""
	}
	var words []string
	for _, e := range rules[len(rules)-1].Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			words = append(words, "last rule rejects")
		case *expr.Verdict:
			if e.Kind != expr.VerdictDrop {
				return ""
			}
			words = append(words, "last rule drops")
		default:
			return "" // not for every packet
		}
	}
	return strings.Join(words, ", ")
}
