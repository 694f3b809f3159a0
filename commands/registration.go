package commands

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/claim"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/domain/user"
	"github.com/sparkops/control-plane/eventstore"
	"github.com/sparkops/control-plane/readmodels"
	"github.com/sparkops/control-plane/readmodels/vault"
)

// systemKey is the id of claims there is one of in the system.
var systemKey = uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://sparkops.dev/system")).String()

// abandonedAfter is how long the holder of the owner's claim may take to become
// a user. It is far above every deadline of a request.
const abandonedAfter = 15 * time.Minute

// Register makes an account for somebody without one. The first user of an
// empty system becomes its owner; after that only viewers and developers may
// register themselves (domain.Forbidden). A claimed e-mail address is
// domain.Conflict EMAIL_TAKEN.
//
// The address is reserved first and the user written last, so a registration
// that broke off in between is completed by registering the address again.
func (h *Handler) Register(ctx context.Context, r user.Registration) (readmodels.User, Receipt, error) {
	return h.enrol(ctx, r, true)
}

// CreateUser makes an account on behalf of an administrator or the command
// line, with any role that the actor may give.
func (h *Handler) CreateUser(ctx context.Context, r user.Registration) (readmodels.User, Receipt, error) {
	need := user.ChangeRole{Role: r.Role}.Needs(user.User{})
	if err := ActorFrom(ctx).Authorize(need); err != nil {
		return readmodels.User{}, Receipt{}, err
	}
	return h.enrol(ctx, r, false)
}

// enrolment is one registration on its way.
type enrolment struct {
	user.Registration
	public bool   // by the user itself: the role is restricted
	id     string // of the user
	hash   string // of the e-mail address
}

func (e enrolment) roleAllowed() bool {
	return !e.public || e.Role == domain.Viewer || e.Role == domain.Developer
}

func (h *Handler) enrol(ctx context.Context, r user.Registration, public bool) (readmodels.User, Receipt, error) {
	e := enrolment{Registration: r.Normal(), public: public}
	if err := e.Check(); err != nil {
		return readmodels.User{}, Receipt{}, err
	}
	ctx, _ = named(ctx)
	e.hash = h.EmailHash(e.Email)
	held, _, err := Load[claim.Claim](ctx, h, domain.StreamName(claim.EmailCategory, e.hash))
	if err != nil {
		return readmodels.User{}, Receipt{}, err
	}
	first, err := h.mayBeFirst(ctx, held.Holder)
	if err != nil {
		return readmodels.User{}, Receipt{}, err
	}
	if !first && !e.roleAllowed() {
		return readmodels.User{}, Receipt{}, errRoleNotAllowed()
	}
	if e.id, err = h.take(ctx, claim.Take{Category: claim.EmailCategory, Key: e.hash, Holder: NewID()}); err != nil {
		return readmodels.User{}, Receipt{}, err
	}
	present, _, err := Load[user.User](ctx, h, domain.StreamName(user.Category, e.id))
	if err != nil {
		return readmodels.User{}, Receipt{}, err
	}
	if present.Exists() {
		return h.enrolled(ctx, e, present)
	}
	if e.Role, err = h.settleRole(ctx, e, first); err != nil {
		return readmodels.User{}, Receipt{}, err
	}
	return h.complete(ctx, e)
}

// enrolled answers a registration of an address that has a user: taken, unless
// the same command made that user. Nobody gets that answer without the
// password, whatever command id they guess.
func (h *Handler) enrolled(ctx context.Context, e enrolment, present user.User) (readmodels.User, Receipt, error) {
	receipt, err := Execute(ctx, h, user.Create{UserID: e.id})
	if err != nil {
		return readmodels.User{}, Receipt{}, err
	}
	switch right, err := h.passwordOf(ctx, present, e.Password); {
	case err != nil:
		return readmodels.User{}, Receipt{}, err
	case !right:
		return readmodels.User{}, Receipt{}, user.ErrEmailTaken()
	}
	answer, err := h.account(ctx, present, receipt.At)
	return answer, receipt, err
}

// complete writes a user whose address and role are settled: its personal
// project first, then the user.
func (h *Handler) complete(ctx context.Context, e enrolment) (readmodels.User, Receipt, error) {
	hashed, err := h.hashPassword(ctx, e.Password)
	if err != nil {
		return readmodels.User{}, Receipt{}, err
	}
	create := user.Create{UserID: e.id, EmailHash: e.hash, Role: e.Role}
	for _, text := range []struct {
		sealed *string
		plain  string
	}{{&create.EmailSealed, e.Email}, {&create.NameSealed, e.Name}, {&create.PasswordSealed, hashed}} {
		if *text.sealed, err = h.seal(ctx, e.id, text.plain); err != nil {
			return readmodels.User{}, Receipt{}, err
		}
	}
	if h.PersonalProjects && e.public {
		if err := h.personalProject(ctx, e.id); err != nil {
			return readmodels.User{}, Receipt{}, err
		}
	}
	if e.public {
		ctx = WithActor(ctx, domain.Actor{Kind: domain.ActorUser, ID: e.id, Role: e.Role})
	}
	receipt, err := Execute(ctx, h, create)
	if err != nil {
		return readmodels.User{}, Receipt{}, err
	}
	u := user.User{}
	for _, event := range receipt.Events {
		u = u.Evolve(event)
	}
	answer, err := h.account(ctx, u, receipt.At)
	return answer, receipt, err
}

func errRoleNotAllowed() error {
	return domain.Fail(domain.Forbidden, "ROLE_NOT_ALLOWED", "You can register as viewer or developer; other roles are given by an administrator.")
}

// take takes a claim and returns who holds it then: the command's holder, or
// whoever was faster.
func (h *Handler) take(ctx context.Context, t claim.Take) (holder string, err error) {
	_, err = Execute(part(ctx), h, t)
	if code(err) != "CLAIM_TAKEN" {
		return t.Holder, err
	}
	held, _, err := Load[claim.Claim](ctx, h, t.Stream())
	return held.Holder, err
}

func ownerClaim(holder string) claim.Take {
	return claim.Take{Category: claim.OwnerCategory, Key: systemKey, Holder: holder}
}

// mayBeFirst reports whether a registration may turn out to be the first of
// the system. holder is who holds its e-mail address, "" for nobody.
func (h *Handler) mayBeFirst(ctx context.Context, holder string) (bool, error) {
	owner, _, err := Load[claim.Claim](ctx, h, ownerClaim("").Stream())
	if err != nil || owner.Holder == "" {
		return err == nil, err
	}
	if gone, err := h.abandoned(ctx, owner.Holder); err != nil || gone {
		return gone, err
	}
	if owner.Holder != holder {
		return false, nil
	}
	registered, _, err := Load[user.User](ctx, h, domain.StreamName(user.Category, holder))
	return err == nil && !registered.Exists(), err
}

// abandoned reports whether the holder of the owner's claim took it long ago
// and never became a user.
func (h *Handler) abandoned(ctx context.Context, holder string) (bool, error) {
	registered, _, err := Load[user.User](ctx, h, domain.StreamName(user.Category, holder))
	if err != nil || registered.Exists() {
		return false, err
	}
	var taken time.Time
	err = h.Store.ReadBackwards(ctx, ownerClaim("").Stream(), 1, func(r eventstore.Recorded) error {
		taken = r.Time
		return nil
	})
	return err == nil && !taken.IsZero() && h.Now().Sub(taken) > abandonedAfter, err
}

// settleRole decides the role of a user whose e-mail address is its own. A
// refusal leaves the address claimed for an id without a user: whoever
// registers it next goes on from there.
func (h *Handler) settleRole(ctx context.Context, e enrolment, first bool) (domain.Role, error) {
	if first {
		holder, err := h.take(ctx, ownerClaim(e.id))
		if err != nil {
			return "", err
		}
		if holder != e.id {
			gone, err := h.abandoned(ctx, holder)
			if err != nil {
				return "", err
			}
			if again := ownerClaim(e.id); gone {
				again.Instead = holder
				if holder, err = h.take(ctx, again); err != nil {
					return "", err
				}
			}
		}
		if holder == e.id && e.public {
			return domain.Owner, nil
		}
	}
	if !e.roleAllowed() {
		return "", errRoleNotAllowed()
	}
	return e.Role, nil
}

// personalProject makes the project every new user finds. Its id follows from
// the user's, so that there is never a second one.
func (h *Handler) personalProject(ctx context.Context, userID string) error {
	id := derivedID(userID, "personal project")
	present, _, err := Load[project.Project](ctx, h, domain.StreamName(project.Category, id))
	if err != nil || present.ID != "" {
		return err
	}
	ctx = WithActor(part(ctx), domain.Process("process.registration"))
	name := "Personal"
	slug, err := h.reserveSlug(ctx, name, id)
	if err != nil {
		return err
	}
	_, err = Execute(ctx, h, project.Create{ProjectID: id, OwnerUserID: userID, Slug: slug, Patch: project.Patch{Name: &name}})
	if code(err) == "PROJECT_EXISTS" {
		return nil
	}
	return err
}

// part returns the context of a part of a use-case that is safe to repeat by
// itself: it has no id of its own and belongs to the whole.
func part(ctx context.Context) context.Context {
	r := requestOf(ctx)
	if r.correlation == "" {
		ctx = WithCausation(ctx, r.commandID, r.commandID)
	}
	return unnamed(ctx)
}

// code returns the stable code of a domain error, "" for any other.
func code(err error) string {
	var failure *domain.Error
	if errors.As(err, &failure) {
		return failure.Code
	}
	return ""
}

// seal seals a person's or tool's text.
func (h *Handler) seal(ctx context.Context, subject, text string) (string, error) {
	sealed, err := h.Vault.Seal(ctx, subject, text)
	switch {
	case err == nil:
		return sealed, nil
	case errors.Is(err, vault.ErrErased):
		return "", domain.Fail(domain.Conflict, "ERASED", "The data of this account was erased for good.")
	default:
		return "", fmt.Errorf("seal text: %w", readmodels.Translate(err))
	}
}

// open opens what seal sealed; readmodels.Erased where the key was erased.
func (h *Handler) open(ctx context.Context, subject, sealed string) (string, error) {
	text, err := h.Vault.Open(ctx, subject, sealed)
	switch {
	case err == nil:
		return text, nil
	case errors.Is(err, vault.ErrErased):
		return readmodels.Erased, nil
	default:
		return "", fmt.Errorf("open sealed text: %w", readmodels.Translate(err))
	}
}

// derivedID returns the UUIDv7 that belongs to another one by a name: made at
// the same time, and else determined by both.
func derivedID(id, name string) string {
	base, err := uuid.Parse(id)
	if err != nil {
		return SubCommandID(id, name)
	}
	sum := sha256.Sum256(append(base[:], name...))
	derived := uuid.UUID(sum[:16])
	copy(derived[:6], base[:6])
	derived[6] = derived[6]&0x0f | 0x70
	derived[8] = derived[8]&0x3f | 0x80
	return derived.String()
}

// timeOf returns when a UUIDv7 was made.
func timeOf(id string) (time.Time, bool) {
	parsed, err := uuid.Parse(id)
	if err != nil || parsed.Version() != 7 {
		return time.Time{}, false
	}
	sec, nsec := parsed.Time().UnixTime()
	return time.Unix(sec, nsec).UTC(), true
}
