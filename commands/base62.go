package commands

import (
	"math/big"
	"strings"
)

const base62Digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// base62 writes bytes as a number of exactly width digits, which must be
// enough for it.
func base62(raw []byte, width int) string {
	n, base, digit := new(big.Int).SetBytes(raw), big.NewInt(62), new(big.Int)
	out := make([]byte, width)
	for i := range width {
		n.DivMod(n, base, digit)
		out[width-1-i] = base62Digits[digit.Int64()]
	}
	return string(out)
}

func isBase62(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return !strings.ContainsRune(base62Digits, r) })
}
