"""Which environment variables of a sandbox must not be given another value by a credential?

Those that decide how its programs start, which road they take out, and whom they trust. A name that is listed here is
refused when a credential is made, and is never set.
"""

from __future__ import annotations

from typing import Final

_STEERING: Final = frozenset(
    {
        # the shell and everything that is started
        "PATH", "HOME", "SHELL", "USER", "LOGNAME", "PWD", "OLDPWD", "TMPDIR", "TERM", "LANG", "LANGUAGE", "TZ",
        "IFS", "ENV", "PS4", "CDPATH", "GLOBIGNORE", "SHELLOPTS", "PROMPT_COMMAND", "POSIXLY_CORRECT", "EDITOR",
        "VISUAL", "PAGER", "BROWSER",
        # the loader and the C library
        "GLIBC_TUNABLES", "GCONV_PATH", "LOCPATH", "NLSPATH", "RES_OPTIONS", "HOSTALIASES", "LOCALDOMAIN",
        "RESOLV_HOST_CONF", "GETCONF_DIR", "OPENSSL_CONF", "OPENSSL_MODULES", "OPENSSL_ENGINES", "SSLKEYLOGFILE",
        # languages
        "NODE_OPTIONS", "NODE_PATH", "NODE_EXTRA_CA_CERTS", "NODE_USE_ENV_PROXY", "NODE_TLS_REJECT_UNAUTHORIZED",
        "NODE_USE_SYSTEM_CA", "NODE_USE_BUNDLED_CA", "NODE_REPL_EXTERNAL_MODULE", "BUN_OPTIONS",
        "PERL5LIB", "PERL5OPT", "PERL5DB", "PERLLIB", "RUBYOPT", "RUBYLIB", "GEM_HOME", "GEM_PATH", "BUNDLE_GEMFILE",
        "CLASSPATH", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "JAVA_HOME",
        "GOFLAGS", "GOPROXY", "GONOSUMDB", "GOINSECURE", "GOENV", "RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_HOME",
        "CARGO_HTTP_CAINFO", "CARGO_HTTP_PROXY",
        # the roads out
        "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "NO_PROXY", "WS_PROXY", "WSS_PROXY",
        # whom to trust
        "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "CURL_HOME", "CURL_SSL_BACKEND", "REQUESTS_CA_BUNDLE",
        "AWS_CA_BUNDLE", "DENO_CERT", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "WGETRC", "SYSTEM_WGETRC",
        # the harness
        "IS_SANDBOX", "API_TIMEOUT_MS", "AI_AGENT", "MAX_THINKING_TOKENS", "MAX_MCP_OUTPUT_TOKENS",
        "USE_BUILTIN_RIPGREP", "FORCE_CODE_TERMINAL",
    }
)  # fmt: skip
_PREFIXES: Final = (
    "ANTHROPIC_",
    "CLAUDE",
    "HOSTLER_",
    "MCP_",
    "DISABLE_",
    "ENABLE_",
    "BASH_",
    "LC_",
    "LD_",
    "DYLD_",
    "MALLOC_",
    "PYTHON",
    "PIP_",
    "NPM_CONFIG_",
    "GIT_ALTERNATE_",
    "GIT_ASKPASS",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_DIR",
    "GIT_EDITOR",
    "GIT_EXEC_PATH",
    "GIT_EXTERNAL_",
    "GIT_HTTP_",
    "GIT_INDEX_",
    "GIT_NAMESPACE",
    "GIT_OBJECT_",
    "GIT_PAGER",
    "GIT_PROXY_",
    "GIT_SEQUENCE_",
    "GIT_SSH",
    "GIT_SSL_",
    "GIT_TEMPLATE_",
    "GIT_TRACE",
    "GIT_WORK_TREE",
)
_SECRETS: Final = frozenset({"PIP_TOKEN", "PIP_PASSWORD", "MCP_TOKEN", "MCP_API_KEY", "MCP_AUTH_TOKEN"})
"""Names in use for secrets, although they begin like the others."""


def steers(name: str) -> bool:
    """Whether `name` is one of them. In any case: several are read in lower case too."""
    upper = name.upper()
    return upper in _STEERING or (upper.startswith(_PREFIXES) and upper not in _SECRETS)
