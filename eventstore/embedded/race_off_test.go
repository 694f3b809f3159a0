//go:build !race

package embedded

// RaceEnabled tells tests that everything takes ten times as long.
const RaceEnabled = false
