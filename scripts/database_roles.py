"""Create the three roles of least privilege, and give each exactly what it may do: owner, operator, reader.

Reads:   the database's catalog
Writes:  the roles (groups without login or password, which a DBA grants to logins), who owns Golive's objects, their
         grants, golive.roles, the audit log; running it again changes nothing
Run it as a superuser, or as who owns the database and may create roles. docs/access.md says what each role may do.
--check prints what differs, changes nothing, and exits 3 if anything does.
"""

import _preflight  # noqa: F401

import argparse

from lib.platform import cli
from lib.platform.workspace import Workspace


def build_parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, dry_run=True)
    parser.add_argument("--check", action="store_true", help="print what differs and change nothing")
    for kind in ("owner", "operator", "reader"):
        parser.add_argument(f"--{kind}", metavar="ROLE", help=f"the {kind}'s name (default: golive_{kind})")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    from lib.operations import roles
    from lib.platform.errors import ExitCode
    from lib.platform.lease import lease
    from lib.platform.postgres import address, database

    workspace = Workspace.find()
    asked = {kind: getattr(args, kind) for kind in roles.KINDS}
    changes = not (args.dry_run or args.check)
    with database(workspace, "roles", write=changes) as connection:
        with connection:
            plan = roles.look(connection, asked)
        if changes and plan.statements:
            with lease(address(workspace), "database_roles"):
                with connection:
                    plan = roles.look(connection, asked)
                roles.apply(connection, plan)
    differs = bool(plan.statements) and not changes
    head = "nothing differs" if not plan.statements else "would be executed:" if differs else "executed:"
    lines = [head, *(f"  {statement};" for statement in plan.statements), *(f"note: {note}" for note in plan.notes)]
    cli.emit(args, {**plan.to_dict(), "applied": changes and bool(plan.statements)}, "\n".join(lines))
    return int(ExitCode.FAIL if args.check and differs else ExitCode.DONE)


if __name__ == "__main__":
    cli.run(main)
