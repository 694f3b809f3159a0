package projections

import (
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/sparkops/control-plane/domain"
	"github.com/sparkops/control-plane/domain/project"
	"github.com/sparkops/control-plane/eventstore"
)

const (
	projectCreated = `insert into projects (id, slug, owner_user_id, name, status, spec, created_at, updated_at, revision)
values ($1, $2, $3, $4, $5, $6, $7, $7, $8)`
	projectUpdated = `update projects set name = $4, status = $5, spec = $6, updated_at = $2, revision = $3 where id = $1`
	projectDeleted = `with gone as (delete from members where project_id = $1) delete from projects where id = $1`
	projectTouched = `update projects set revision = $2 where id = $1`

	// A project that was deleted has no members, also when one was being added.
	memberAdded = `insert into members (project_id, user_id, role, added_at)
select id, $2, $3, $4 from projects where id = $1
on conflict (project_id, user_id) do update set role = excluded.role`
	memberRoleChanged = `update members set role = $3 where project_id = $1 and user_id = $2`
	memberRemoved     = `delete from members where project_id = $1 and user_id = $2`
)

func applyProject(b *pgx.Batch, r eventstore.Recorded) error {
	id, at, revision := clean(r.StreamID), r.Time, int64(r.Revision)
	switch e := r.Event.(type) {
	case project.Created:
		spec, err := document(e.Spec)
		if err != nil {
			return fmt.Errorf("write the definition: %w", err)
		}
		b.Queue(projectCreated, id, clean(e.Slug), clean(e.OwnerUserID), clean(e.Spec.Name), clean(e.Spec.Status), spec, at, revision)
		b.Queue(memberAdded, id, clean(e.OwnerUserID), string(domain.Owner), at)
	case project.Updated:
		spec, err := document(e.Spec)
		if err != nil {
			return fmt.Errorf("write the definition: %w", err)
		}
		b.Queue(projectUpdated, id, at, revision, clean(e.Spec.Name), clean(e.Spec.Status), spec)
	case project.Deleted:
		b.Queue(projectDeleted, id)
	case project.MemberAdded:
		b.Queue(memberAdded, id, clean(e.UserID), clean(string(e.Role)), at)
		b.Queue(projectTouched, id, revision)
	case project.MemberRoleChanged:
		b.Queue(memberRoleChanged, id, clean(e.UserID), clean(string(e.Role)))
		b.Queue(projectTouched, id, revision)
	case project.MemberRemoved:
		b.Queue(memberRemoved, id, clean(e.UserID))
		b.Queue(projectTouched, id, revision)
	default:
		return unhandled(r)
	}
	return nil
}

// ofProject is what projections of things in projects do with the project's
// own events: nothing, but when it is deleted. handled is false for events that
// are no project's.
func ofProject(b *pgx.Batch, r eventstore.Recorded, deleted string) (handled bool) {
	switch r.Event.(type) {
	case project.Deleted:
		b.Queue(deleted, clean(r.StreamID))
		return true
	case project.Created, project.Updated, project.MemberAdded, project.MemberRoleChanged, project.MemberRemoved:
		return true
	default:
		return false
	}
}
