package main

import "github.com/sparkops/control-plane/domain"

// temporary reports whether trying again may help.
func temporary(err error) bool {
	kind := domain.KindOf(err)
	return kind == domain.Unavailable || kind == domain.OutcomeUnknown
}
