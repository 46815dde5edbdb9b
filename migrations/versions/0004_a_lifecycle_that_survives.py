"""A lifecycle that survives: checkpoints of attempts, batches, what a job needs of a worker, archives.

Revision: 0004, after 0003.
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('batch',
    sa.Column('id', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
    sa.Column('project', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
    sa.Column('name', sqlmodel.sql.sqltypes.AutoString(length=200), nullable=False),
    sa.Column('request', sa.JSON(), nullable=False),
    sa.Column('grid', sa.JSON(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    with op.batch_alter_table('batch', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_batch_project'), ['project'], unique=False)

    with op.batch_alter_table('work', schema=None) as batch_op:
        batch_op.add_column(sa.Column('failed_attempts', sa.Integer(), nullable=False, server_default='0'))
        batch_op.add_column(sa.Column('gpus', sa.Integer(), nullable=False, server_default='0'))
        batch_op.add_column(sa.Column('resource_class', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=True))
        batch_op.add_column(sa.Column('last_flush', sa.Integer(), nullable=False, server_default='0'))

    with op.batch_alter_table('attempt', schema=None) as batch_op:
        batch_op.add_column(sa.Column('began_s', sa.Double(), nullable=False, server_default='0'))
        batch_op.add_column(sa.Column('ended_s', sa.Double(), nullable=True))
        batch_op.add_column(sa.Column('resumed_step', sa.Integer(), nullable=True))
        batch_op.create_index('ix_attempt_ended', ['ended_s'], unique=False)

    with op.batch_alter_table('job', schema=None) as batch_op:
        batch_op.add_column(sa.Column('planned_examples', sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column('clone_of', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=True))
        batch_op.add_column(sa.Column('batch_id', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=True))
        batch_op.add_column(sa.Column('overrides', sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column('metrics_from_seq', sa.Integer(), nullable=False, server_default='1'))
        batch_op.add_column(sa.Column('archived_seq', sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column('deleted_at', sa.DateTime(timezone=True), nullable=True))
        batch_op.create_foreign_key('fk_job_batch', 'batch', ['batch_id'], ['id'])
        batch_op.create_index(batch_op.f('ix_job_batch_id'), ['batch_id'], unique=False)

    with op.batch_alter_table('checkpoint', schema=None) as batch_op:
        batch_op.add_column(sa.Column('attempt', sa.Integer(), nullable=False, server_default='0'))
        batch_op.drop_column('metrics')


def downgrade() -> None:
    with op.batch_alter_table('checkpoint', schema=None) as batch_op:
        batch_op.add_column(sa.Column('metrics', sa.JSON(), nullable=True))
        batch_op.drop_column('attempt')

    with op.batch_alter_table('job', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_job_batch_id'))
        batch_op.drop_constraint('fk_job_batch', type_='foreignkey')
        for name in ('deleted_at', 'archived_seq', 'metrics_from_seq', 'overrides', 'batch_id', 'clone_of', 'planned_examples'):
            batch_op.drop_column(name)

    with op.batch_alter_table('attempt', schema=None) as batch_op:
        batch_op.drop_index('ix_attempt_ended')
        for name in ('resumed_step', 'ended_s', 'began_s'):
            batch_op.drop_column(name)

    with op.batch_alter_table('work', schema=None) as batch_op:
        for name in ('last_flush', 'resource_class', 'gpus', 'failed_attempts'):
            batch_op.drop_column(name)

    op.drop_table('batch')
