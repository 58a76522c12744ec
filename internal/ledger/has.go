package ledger

// Has says whether an entry of this ID is on the disk.
func (l *Ledger) Has(id string) bool {
	l.writing.Lock()
	defer l.writing.Unlock()
	_, found := l.ids[hashID(id)]
	return found
}
