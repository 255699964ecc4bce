"""The vault and credential endpoints."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object, no_fields
from hostler.api.context import caller_of, services_of
from hostler.api.paging import begins_after, page_of_rows
from hostler.api.query import Query
from hostler.api.rendering import json_response
from hostler.api.routing import ContractRouter, path_value
from hostler.domain.values import parse
from hostler.domain.vaults import CreateCredential, CreateVault, UpdateCredential, UpdateVault

router = ContractRouter()


# ------------------------------------------------------------------------------------------------------------- vaults


@router.serves("vaults.create")
async def create(request: Request) -> Response:
    params = parse(CreateVault, await json_object(request))
    return json_response(await services_of(request).vaults.create(caller_of(request).workspace, params))


@router.serves("vaults.retrieve")
async def retrieve(request: Request) -> Response:
    Query(request).finish()
    vault_id = path_value(request, "vault_id")
    return json_response(await services_of(request).vaults.retrieve(caller_of(request).workspace, vault_id))


@router.serves("vaults.update")
async def update(request: Request) -> Response:
    patch = parse(UpdateVault, await json_object(request))
    vault_id = path_value(request, "vault_id")
    return json_response(await services_of(request).vaults.update(caller_of(request).workspace, vault_id, patch))


@router.serves("vaults.list")
async def list_vaults(request: Request) -> Response:
    query = Query(request)
    include_archived = query.boolean("include_archived")
    limit = query.limit(default=20, most=100)
    after = begins_after(query, "vaults")
    query.finish()
    rows, more = await services_of(request).vaults.list(
        caller_of(request).workspace,
        limit=limit,
        after=after,
        include_archived=include_archived,
    )
    return page_of_rows("vaults", rows, more)


@router.serves("vaults.delete")
async def delete(request: Request) -> Response:
    vault_id = path_value(request, "vault_id")
    await services_of(request).vaults.delete(caller_of(request).workspace, vault_id)
    return json_response({"id": vault_id, "type": "vault_deleted"})


@router.serves("vaults.archive")
async def archive(request: Request) -> Response:
    await no_fields(request)
    vault_id = path_value(request, "vault_id")
    return json_response(await services_of(request).vaults.archive(caller_of(request).workspace, vault_id))


# -------------------------------------------------------------------------------------------------------- credentials


def _place(request: Request) -> tuple[str, str, str]:
    """Workspace, vault, credential."""
    return caller_of(request).workspace, path_value(request, "vault_id"), path_value(request, "credential_id")


@router.serves("vaults.credentials.create")
async def create_credential(request: Request) -> Response:
    params = parse(CreateCredential, await json_object(request))
    workspace, vault_id = caller_of(request).workspace, path_value(request, "vault_id")
    return json_response(await services_of(request).credentials.create(workspace, vault_id, params))


@router.serves("vaults.credentials.retrieve")
async def retrieve_credential(request: Request) -> Response:
    Query(request).finish()
    return json_response(await services_of(request).credentials.retrieve(*_place(request)))


@router.serves("vaults.credentials.update")
async def update_credential(request: Request) -> Response:
    patch = parse(UpdateCredential, await json_object(request))
    return json_response(await services_of(request).credentials.update(*_place(request), patch))


@router.serves("vaults.credentials.list")
async def list_credentials(request: Request) -> Response:
    query = Query(request)
    include_archived = query.boolean("include_archived")
    limit = query.limit(default=20, most=100)
    after = begins_after(query, "credentials")
    query.finish()
    rows, more = await services_of(request).credentials.list(
        caller_of(request).workspace,
        path_value(request, "vault_id"),
        limit=limit,
        after=after,
        include_archived=include_archived,
    )
    return page_of_rows("credentials", rows, more)


@router.serves("vaults.credentials.delete")
async def delete_credential(request: Request) -> Response:
    place = _place(request)
    await services_of(request).credentials.delete(*place)
    return json_response({"id": place[2], "type": "vault_credential_deleted"})


@router.serves("vaults.credentials.archive")
async def archive_credential(request: Request) -> Response:
    await no_fields(request)
    return json_response(await services_of(request).credentials.archive(*_place(request)))


@router.serves("vaults.credentials.mcp_oauth_validate")
async def validate_credential(request: Request) -> Response:
    await no_fields(request)
    return json_response(await services_of(request).credential_probe.validate(*_place(request)))
