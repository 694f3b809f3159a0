package workflow

// Graph is a definition with its nodes and edges resolved to positions, so
// that a run finds its way without searching. It is immutable.
type Graph struct {
	Nodes []Node
	Edges []Link
	Out   [][]int // by node: its outgoing edges, in the order of the definition
	In    [][]int // by node: its incoming edges, in the order of the definition
	Order []int   // the nodes, each after all before it; nodes on or behind a cycle are missing

	index map[string]int
}

// Link is an edge between two positions of Graph.Nodes.
type Link struct {
	From, To int
	When     string
	Position int // in Definition.Edges
}

// NewGraph resolves a definition. Edges that name an unknown node are left
// out and, of nodes of the same id, the first counts: CheckDefinition reports
// both, so that a stored definition has neither.
func NewGraph(def Definition) *Graph {
	n := len(def.Nodes)
	g := &Graph{
		Nodes: def.Nodes,
		Edges: make([]Link, 0, len(def.Edges)),
		Out:   make([][]int, n),
		In:    make([][]int, n),
		index: make(map[string]int, n),
	}
	for i, node := range def.Nodes {
		if _, taken := g.index[node.ID]; !taken {
			g.index[node.ID] = i
		}
	}
	for position, edge := range def.Edges {
		from, okFrom := g.index[edge.From]
		to, okTo := g.index[edge.To]
		if !okFrom || !okTo {
			continue
		}
		e := len(g.Edges)
		g.Edges = append(g.Edges, Link{From: from, To: to, When: edge.When, Position: position})
		g.Out[from] = append(g.Out[from], e)
		g.In[to] = append(g.In[to], e)
	}
	g.Order = g.order()
	return g
}

// Index returns the position of a node.
func (g *Graph) Index(id string) (int, bool) {
	i, ok := g.index[id]
	return i, ok
}

// Ancestors returns, by node, whether it lies before the given one.
func (g *Graph) Ancestors(of int) []bool {
	seen := make([]bool, len(g.Nodes))
	open := []int{of}
	for len(open) > 0 {
		at := open[len(open)-1]
		open = open[:len(open)-1]
		for _, e := range g.In[at] {
			if from := g.Edges[e].From; !seen[from] {
				seen[from] = true
				open = append(open, from)
			}
		}
	}
	return seen
}

// order sorts the nodes topologically, start nodes in the order of the
// definition first (Kahn).
func (g *Graph) order() []int {
	missing := make([]int, len(g.Nodes))
	order := make([]int, 0, len(g.Nodes))
	for i := range g.Nodes {
		if missing[i] = len(g.In[i]); missing[i] == 0 {
			order = append(order, i)
		}
	}
	for next := 0; next < len(order); next++ {
		for _, e := range g.Out[order[next]] {
			to := g.Edges[e].To
			if missing[to]--; missing[to] == 0 {
				order = append(order, to)
			}
		}
	}
	return order
}

// cycle returns the edges of one cycle, or nil where there is none.
func (g *Graph) cycle() []int {
	const fresh, open, done = 0, 1, 2
	state := make([]int, len(g.Nodes))
	var path []int // edges from the root of the search to the node at hand
	var visit func(at int) []int
	visit = func(at int) []int {
		state[at] = open
		for _, e := range g.Out[at] {
			to := g.Edges[e].To
			if state[to] == done {
				continue
			}
			path = append(path, e)
			if state[to] == open {
				first := len(path) - 1
				for g.Edges[path[first]].From != to {
					first--
				}
				return path[first:]
			}
			if found := visit(to); found != nil {
				return found
			}
			path = path[:len(path)-1]
		}
		state[at] = done
		return nil
	}
	for i := range g.Nodes {
		if state[i] == fresh {
			if found := visit(i); found != nil {
				return found
			}
		}
	}
	return nil
}
