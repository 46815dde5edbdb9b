"""Plans before a job is accepted: sizes of data sets, the memory that work needs and that workers have.

Revision: 0006, after 0005.
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('dataset_sizes',
    sa.Column('dataset_id', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
    sa.Column('sizes', sa.JSON(), nullable=False),
    sa.ForeignKeyConstraint(['dataset_id'], ['dataset.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('dataset_id')
    )
    with op.batch_alter_table('work', schema=None) as batch_op:
        batch_op.add_column(sa.Column('needed_bytes', sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column('least_bytes', sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column('promised_bytes', sa.BigInteger(), nullable=True))
    with op.batch_alter_table('worker', schema=None) as batch_op:
        batch_op.add_column(sa.Column('device', sqlmodel.sql.sqltypes.AutoString(length=400), nullable=True))
        batch_op.add_column(sa.Column('headroom_bytes', sa.BigInteger(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table('worker', schema=None) as batch_op:
        batch_op.drop_column('headroom_bytes')
        batch_op.drop_column('device')
    with op.batch_alter_table('work', schema=None) as batch_op:
        batch_op.drop_column('promised_bytes')
        batch_op.drop_column('least_bytes')
        batch_op.drop_column('needed_bytes')
    op.drop_table('dataset_sizes')
