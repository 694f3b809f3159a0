package user

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sparkops/control-plane/domain"
)

// Roles are the system roles, as an enumeration.
var Roles = []string{
	string(domain.Owner), string(domain.Admin), string(domain.Developer),
	string(domain.Viewer), string(domain.Auditor), string(domain.Operator),
}

// Registration is what somebody who wants an account fills in.
type Registration struct {
	Email    string      `json:"email"`
	Name     string      `json:"name"`
	Password string      `json:"password"`
	Role     domain.Role `json:"role,omitempty"` // viewer where absent
}

// Normal returns the registration trimmed, with the default role.
func (r Registration) Normal() Registration {
	r.Email, r.Name = strings.TrimSpace(r.Email), strings.TrimSpace(r.Name)
	if r.Role == "" {
		r.Role = domain.Viewer
	}
	return r
}

// Check returns every rule the registration breaks. Which of the known roles
// may be asked for is not its matter.
func (r Registration) Check() error {
	var b domain.Broken
	if !validEmail(r.Email) {
		b.Add("email", "must be an e-mail address")
	}
	b.Name("name", r.Name)
	password(&b, "password", r.Password)
	b.OneOf("role", string(r.Role), Roles...)
	return b.Err()
}

// CheckName returns whether a display name can be taken.
func CheckName(name string) error {
	var b domain.Broken
	b.Name("name", name)
	return b.Err()
}

// CheckPassword returns whether a password can be taken; field is where it was
// given.
func CheckPassword(field, text string) error {
	var b domain.Broken
	password(&b, field, text)
	return b.Err()
}

// PasswordMin and PasswordMax bound a password, in characters.
const (
	PasswordMin = 8
	PasswordMax = 256
)

func password(b *domain.Broken, field, text string) {
	if n := utf8.RuneCountInString(text); n < PasswordMin || n > PasswordMax {
		b.Add(field, "must be %d to %d characters long", PasswordMin, PasswordMax)
	}
}

// validEmail accepts what mail servers deliver to in practice: one @, a local
// part of 1 to 64 bytes, a domain of labels, at most 254 bytes, no space or
// control characters, no quoted forms.
func validEmail(email string) bool {
	local, host, ok := strings.Cut(email, "@")
	if !ok || len(email) > 254 || len(local) < 1 || len(local) > 64 || strings.Contains(host, "@") {
		return false
	}
	if strings.ContainsFunc(email, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune(`"(),:;<>[\]`, r) || r == utf8.RuneError
	}) {
		return false
	}
	for part := range strings.SplitSeq(local, ".") {
		if part == "" {
			return false
		}
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}
