-- What luacheck has to know about scripts that run inside Redis and Valkey.
std = "lua51"
read_globals = { "KEYS", "ARGV", "redis", "struct", "bit" }
max_line_length = false -- of expanded files; CONTRIBUTING.md says 120
ignore = {
  "21.", -- an include defines more than each script that includes it uses
  "23.", -- the same
  "431", -- `@include … for` makes a function of the same name inside another, on purpose
}
