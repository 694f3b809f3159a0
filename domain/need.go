package domain

// Nowhere stands for the project of a thing that does not exist or is deleted.
// Nobody is a member of it, so that a stranger's attempt on an unknown id ends
// like one on a thing in somebody else's project.
const Nowhere = "-"

// NeedIn returns the need of a permission in the project of a thing, which is
// Nowhere for a thing that does not exist.
func NeedIn(p Permission, project string, exists bool) Need {
	if !exists {
		project = Nowhere
	}
	return Need{Permission: p, Project: project}
}

// Missing returns the error for what does not exist, was deleted or is not
// visible: the three look the same from outside.
func Missing() error {
	return Fail(NotFound, "NOT_FOUND", "There is no such resource.")
}
