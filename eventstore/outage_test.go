package eventstore_test

import (
	"github.com/sparkops/control-plane/eventstore/embedded"
)

func nodeOptions() embedded.Options { return embedded.Options{} }
