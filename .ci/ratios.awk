# Reads the output of `go test -bench`, passes it on, and ends with the rates of
# each pair of benchmarks of the same run as a ratio.
{ print }
/^Benchmark/ {
  name = $1; sub(/-[0-9]+$/, "", name); sub(/^Benchmark/, "", name)
  for (i = 3; i < NF; i++) if ($(i + 1) == "op/s" || $(i + 1) == "events/s") rate[name] = $i
}
function ratio(title, a, b) {
  if ((a in rate) && (b in rate) && rate[b] > 0) printf "%-52s %9.0f/s against %9.0f/s = %.2f\n", title, rate[a], rate[b], rate[a] / rate[b]
}
END {
  print ""
  split("1 8 64", writers, " ")
  for (i = 1; i <= 3; i++) {
    w = writers[i]
    ratio("append, " w " writers, against raw gRPC unary", "Append/" w, "GRPCUnary/" w)
    ratio("append, " w " writers, against raw Pebble synced", "Append/" w, "PebbleSync/" w)
  }
  ratio("catch-up read against raw gRPC streaming", "CatchUp1M", "GRPCStream")
}
