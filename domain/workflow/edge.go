package workflow

import "encoding/json"

// UnmarshalJSON reads an edge. The graph builders' names "source" and
// "target" are synonyms of "from" and "to".
func (e *Edge) UnmarshalJSON(data []byte) error {
	var in struct {
		From   string `json:"from"`
		To     string `json:"to"`
		Source string `json:"source"`
		Target string `json:"target"`
		When   string `json:"when"`
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	*e = Edge{From: in.From, To: in.To, When: in.When}
	setDefault(&e.From, in.Source)
	setDefault(&e.To, in.Target)
	return nil
}
