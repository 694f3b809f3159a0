package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/joho/godotenv"
	"github.com/spf13/pflag"
)

// Config is every setting of the program. Values come from flags, else the
// environment, else a .env file in the working directory, else the default.
// The tags are the single source of the flags, of .env.example and of the
// table in the README.
type Config struct {
	Port             int           `env:"PORT" envDefault:"3000" flag:"port" help:"where the REST API, its description and the metrics listen"`
	Host             string        `env:"HOST" flag:"host" help:"address to listen on; dev: 127.0.0.1, serve: all interfaces"`
	DataDir          string        `env:"SPARKOPS_DATA_DIR" envDefault:"./data" flag:"data-dir" help:"everything dev keeps: event log, private Postgres, keys"`
	EventStoreURL    string        `env:"EVENTSTORE_URL" flag:"eventstore-url" help:"esdb:// or kurrentdb:// of a cluster or of 'sparkops eventstore'; dev: embedded when empty" secret:"url"`
	EventStorePort   int           `env:"EVENTSTORE_PORT" envDefault:"2113" flag:"eventstore-port" help:"where the embedded event store listens (loopback)"`
	DatabaseURL      string        `env:"DATABASE_URL" flag:"database-url" help:"Postgres 15 or newer; dev: a private child when empty" secret:"url"`
	PostgresBin      string        `env:"SPARKOPS_PG_BIN" flag:"pg-bin" help:"folder of the Postgres binaries; searched when empty"`
	JWTSecret        string        `env:"JWT_SECRET" flag:"jwt-secret" help:"signs access tokens, 32 characters or more; dev: generated and kept" secret:"true"`
	JWTPrevious      string        `env:"JWT_SECRET_PREVIOUS" flag:"jwt-secret-previous" help:"still accepted while access tokens signed by it live" secret:"true"`
	JWTExpiresIn     Lifetime      `env:"JWT_EXPIRES_IN" envDefault:"15m" flag:"jwt-expires-in" help:"life of an access token"`
	RefreshExpiresIn Lifetime      `env:"JWT_REFRESH_EXPIRES_IN" envDefault:"7d" flag:"jwt-refresh-expires-in" help:"absolute life of a login"`
	APIKeySecret     string        `env:"API_KEY_SECRET" flag:"api-key-secret" help:"pepper of API keys and e-mail hashes, 32 characters or more; dev: generated and kept" secret:"true"`
	SecretsKey       string        `env:"SECRETS_KEY" flag:"secrets-key" help:"master key of stored secrets and personal data, 32 characters or more; dev: generated and kept" secret:"true"`
	SecretsPrevious  string        `env:"SECRETS_KEY_PREVIOUS" flag:"secrets-key-previous" help:"still opens what was sealed before a rotation" secret:"true"`
	PersonalProjects bool          `env:"PERSONAL_PROJECTS" envDefault:"true" flag:"personal-projects" help:"a newly registered user gets a project of its own"`
	CORSOrigins      []string      `env:"CORS_ORIGINS" envDefault:"http://localhost:8080,http://localhost:5173,http://localhost:3000" flag:"cors-origins" help:"browser origins allowed to call the API, exact"`
	TrustedProxies   []string      `env:"TRUSTED_PROXIES" flag:"trusted-proxies" help:"CIDRs whose X-Forwarded-For counts"`
	RatePerMinute    int           `env:"RATE_LIMIT_PER_MINUTE" envDefault:"600" flag:"rate-limit-per-minute" help:"requests per minute of one user, key or address"`
	RateBurst        int           `env:"RATE_LIMIT_BURST" envDefault:"100" flag:"rate-limit-burst" help:"requests at once of one user, key or address"`
	EgressAllow      []string      `env:"EGRESS_ALLOW" flag:"egress-allow" help:"CIDRs or hosts that tools may reach although private"`
	OpenAIBaseURL    string        `env:"OPENAI_BASE_URL" flag:"openai-base-url" help:"base URL of an OpenAI-compatible provider; simulated provider when empty and no key is set"`
	OpenAIAPIKey     string        `env:"OPENAI_API_KEY" flag:"openai-api-key" help:"key of that provider" secret:"true"`
	WorkerSlots      int           `env:"WORKER_SLOTS" envDefault:"16" flag:"worker-slots" help:"steps the built-in worker carries out at once"`
	WorkerQueues     []string      `env:"WORKER_QUEUES" envDefault:"default" flag:"worker-queues" help:"queues the built-in worker takes steps from"`
	LogLevel         string        `env:"LOG_LEVEL" envDefault:"info" flag:"log-level" help:"debug, info, warn or error"`
	LogFormat        string        `env:"LOG_FORMAT" flag:"log-format" help:"text or json; text on a terminal, else json"`
	UnsafeTestClock  bool          `env:"UNSAFE_TEST_CLOCK" envDefault:"false" flag:"unsafe-test-clock" help:"tests only: POST /debug/clock moves the clock of this process"`
	DrainTimeout     time.Duration `env:"DRAIN_TIMEOUT" envDefault:"15s" flag:"drain-timeout" help:"how long a stop waits for running work"`

	set        map[string]bool // names set by hand, as opposed to defaults
	vaultInDir bool            // the keys of persons lie in the data directory, not in Postgres
}

// Lifetime is a duration that may also be written in days ("7d").
type Lifetime time.Duration

// UnmarshalText reads "15m", "7d" and the like.
func (l *Lifetime) UnmarshalText(text []byte) error {
	s := string(text)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		hours, err := time.ParseDuration(days + "h")
		if err != nil {
			return fmt.Errorf("%q is no duration such as 15m or 7d", s)
		}
		*l = Lifetime(hours * 24)
		return nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is no duration such as 15m or 7d", s)
	}
	*l = Lifetime(d)
	return nil
}

// bindFlags adds one flag per setting. Flags have no defaults of their own: a
// flag that is not given leaves the environment in force.
func bindFlags(flags *pflag.FlagSet) {
	t := reflect.TypeFor[Config]()
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("flag")
		if name == "" {
			continue
		}
		usage := f.Tag.Get("help") + " [" + f.Tag.Get("env") + "]"
		if d := f.Tag.Get("envDefault"); d != "" {
			usage += " (default " + d + ")"
		}
		flags.String(name, "", usage)
		if f.Type.Kind() == reflect.Bool {
			flags.Lookup(name).NoOptDefVal = "true"
		}
	}
}

// loadConfig reads flags, environment and .env in this order of precedence.
// Every problem is reported at once, by the setting's name.
func loadConfig(flags *pflag.FlagSet) (Config, error) {
	values := map[string]string{}
	fromFile, err := godotenv.Read(".env")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("read .env: %w", err)
	}
	maps.Copy(values, fromFile)
	maps.Copy(values, env.ToMap(os.Environ()))
	t := reflect.TypeFor[Config]()
	for i := range t.NumField() {
		f := t.Field(i)
		if flag := flags.Lookup(f.Tag.Get("flag")); flag != nil && flag.Changed {
			values[f.Tag.Get("env")] = flag.Value.String()
		}
	}
	cfg := Config{set: map[string]bool{}}
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("env")
		if values[name] == "" {
			delete(values, name) // an empty value counts as absent
			continue
		}
		cfg.set[name] = true
	}
	if err := env.ParseWithOptions(&cfg, env.Options{Environment: values}); err != nil {
		return Config{}, errors.Join(named(err)...)
	}
	return cfg, cfg.check()
}

// named turns the parser's errors, which name fields of Config, into errors
// that name settings. Values are left out: they may be secret.
func named(err error) []error {
	var all env.AggregateError
	if !errors.As(err, &all) {
		return []error{fmt.Errorf("configuration: %w", err)}
	}
	var problems []error
	for _, one := range all.Errors {
		var parse env.ParseError
		if !errors.As(one, &parse) {
			problems = append(problems, fmt.Errorf("configuration: %w", one))
			continue
		}
		f, _ := reflect.TypeFor[Config]().FieldByName(parse.Name)
		problems = append(problems, fmt.Errorf("%s: not a value of type %s: %s", f.Tag.Get("env"), kindName(f.Type), f.Tag.Get("help")))
	}
	return problems
}

func kindName(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[Lifetime](), reflect.TypeFor[time.Duration]():
		return "duration (15m, 7d)"
	}
	switch t.Kind() {
	case reflect.Int:
		return "whole number"
	case reflect.Bool:
		return "true or false"
	default:
		return t.String()
	}
}

// check refuses values that would only fail later.
func (c Config) check() error {
	var problems []error
	port := func(name string, value int) {
		if value < 0 || value > 65535 {
			problems = append(problems, fmt.Errorf("%s: %d is no port", name, value))
		}
	}
	port("PORT", c.Port)
	port("EVENTSTORE_PORT", c.EventStorePort)
	if c.WorkerSlots < 1 || c.WorkerSlots > 10_000 {
		problems = append(problems, errors.New("WORKER_SLOTS: must be 1 to 10000"))
	}
	if c.RatePerMinute < 1 || c.RateBurst < 1 {
		problems = append(problems, errors.New("RATE_LIMIT_PER_MINUTE, RATE_LIMIT_BURST: must be at least 1"))
	}
	for name, l := range map[string]Lifetime{"JWT_EXPIRES_IN": c.JWTExpiresIn, "JWT_REFRESH_EXPIRES_IN": c.RefreshExpiresIn} {
		if l <= 0 {
			problems = append(problems, fmt.Errorf("%s: must be longer than zero", name))
		}
	}
	if _, ok := logLevels[strings.ToLower(c.LogLevel)]; !ok {
		problems = append(problems, fmt.Errorf("LOG_LEVEL: %q is none of debug, info, warn, error", c.LogLevel))
	}
	if c.LogFormat != "" && c.LogFormat != "text" && c.LogFormat != "json" {
		problems = append(problems, fmt.Errorf("LOG_FORMAT: %q is neither text nor json", c.LogFormat))
	}
	for _, o := range c.CORSOrigins {
		if o == "*" || !strings.Contains(o, "://") || strings.HasSuffix(o, "/") {
			problems = append(problems, fmt.Errorf("CORS_ORIGINS: %q is no origin such as https://app.example.com", o))
		}
	}
	return errors.Join(problems...)
}

// envExample renders every setting with its default and meaning.
func envExample() string {
	var b strings.Builder
	b.WriteString("# Every setting of SparkOps with its default. Copy to .env and change what you need.\n")
	b.WriteString("# Generated by `make generate` from cmd/sparkops/config.go.\n")
	t := reflect.TypeFor[Config]()
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Tag.Get("env") == "" {
			continue
		}
		fmt.Fprintf(&b, "\n# %s\n%s=%s\n", f.Tag.Get("help"), f.Tag.Get("env"), f.Tag.Get("envDefault"))
	}
	return b.String()
}

// configTable renders the settings as a Markdown table for the README.
func configTable() string {
	var b strings.Builder
	b.WriteString("| name | default | meaning |\n|---|---|---|\n")
	t := reflect.TypeFor[Config]()
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Tag.Get("env") == "" {
			continue
		}
		def := f.Tag.Get("envDefault")
		if def != "" {
			def = "`" + def + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.Tag.Get("env"), def, f.Tag.Get("help"))
	}
	return b.String()
}
