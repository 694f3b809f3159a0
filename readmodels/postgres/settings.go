package postgres

// settings returns the server's command line after the program. They stand
// there and not in postgresql.conf so that every start has exactly these.
// The first two flags are what servesCluster recognises a server by.
func settings(cluster, socketDir string, ephemeral bool) []string {
	args := []string{"-D", cluster, "-k", socketDir}
	for _, s := range [][2]string{
		{"listen_addresses", ""},
		{"port", "5432"}, // a part of the socket's name only
		{"unix_socket_permissions", "0700"},
		{"max_connections", "100"},

		{"shared_buffers", "128MB"},
		{"effective_cache_size", "1GB"},
		{"work_mem", "8MB"},
		{"maintenance_work_mem", "64MB"},
		{"max_parallel_workers_per_gather", "0"}, // the machine is the developer's
		{"random_page_cost", "1.1"},              // it has an SSD
		{"jit", "off"},                           // costs more than it saves on short queries

		// Nobody replicates from this server; less is written this way.
		{"wal_level", "minimal"},
		{"max_wal_senders", "0"},
		{"max_wal_size", "1GB"},
		{"checkpoint_timeout", "5min"},
		{"synchronous_commit", "on"},

		{"timezone", "UTC"},
		{"log_timezone", "UTC"},
		{"logging_collector", "off"},
		{"log_destination", "stderr"},
		{"log_line_prefix", ""},
		// An error goes to the client that caused it. Here its text could carry
		// submitted values into our log.
		{"log_min_messages", "log"},
		{"log_min_error_statement", "panic"},
		{"log_error_verbosity", "terse"},
		{"log_checkpoints", "off"},
	} {
		args = append(args, "-c", s[0]+"="+s[1])
	}
	if ephemeral {
		for _, s := range []string{"fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=64MB", "max_wal_size=256MB"} {
			args = append(args, "-c", s)
		}
	}
	return args
}
