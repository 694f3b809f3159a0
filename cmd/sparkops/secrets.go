package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// secrets are the keys the process signs and seals with.
type secrets struct {
	JWT     string `json:"jwtSecret"`
	APIKey  string `json:"apiKeySecret"`
	Secrets string `json:"secretsKey"`
}

const minSecretLength = 32

// configuredSecrets takes the secrets of `serve` from the configuration and
// refuses empty, short and example values.
func configuredSecrets(cfg Config) (secrets, error) {
	var problems []error
	need := func(name, value string) {
		switch {
		case value == "":
			problems = append(problems, fmt.Errorf("%s is not set: `openssl rand -base64 48` makes one", name))
		case len(value) < minSecretLength:
			problems = append(problems, fmt.Errorf("%s is shorter than %d characters", name, minSecretLength))
		case isExampleSecret(value):
			problems = append(problems, fmt.Errorf("%s looks like an example value", name))
		}
	}
	need("JWT_SECRET", cfg.JWTSecret)
	need("API_KEY_SECRET", cfg.APIKeySecret)
	need("SECRETS_KEY", cfg.SecretsKey)
	return secrets{JWT: cfg.JWTSecret, APIKey: cfg.APIKeySecret, Secrets: cfg.SecretsKey}, errors.Join(problems...)
}

// isExampleSecret recognises placeholders and values of hardly any variety.
func isExampleSecret(value string) bool {
	lower := strings.ToLower(value)
	for _, word := range []string{"changeme", "change-me", "change_me", "example", "your-secret", "your_secret", "placeholder", "secret-key-here"} {
		if strings.Contains(lower, word) {
			return true
		}
	}
	distinct := map[rune]bool{}
	for _, r := range value {
		distinct[r] = true
	}
	return len(distinct) < 8
}

// keptSecrets returns the secrets of `dev`: those configured, else those kept
// in the data directory, else new ones that are kept from now on.
func keptSecrets(cfg Config) (secrets, error) {
	path := filepath.Join(cfg.DataDir, "keys", "secrets.json")
	var kept secrets
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return secrets{}, fmt.Errorf("read kept secrets: %w", err)
	default:
		if err := json.Unmarshal(data, &kept); err != nil {
			return secrets{}, fmt.Errorf("%s is damaged: restore it from a backup; without it nobody can sign in to this data directory: %w", path, err)
		}
	}
	changed := false
	for _, s := range []*string{&kept.JWT, &kept.APIKey, &kept.Secrets} {
		if *s == "" {
			raw := make([]byte, 48)
			if _, err := rand.Read(raw); err != nil {
				return secrets{}, fmt.Errorf("make a secret: %w", err)
			}
			*s = base64.RawURLEncoding.EncodeToString(raw)
			changed = true
		}
	}
	if changed {
		if err := writeDurably(path, kept); err != nil {
			return secrets{}, fmt.Errorf("keep secrets: %w", err)
		}
	}
	override := func(target *string, configured string) {
		if configured != "" {
			*target = configured
		}
	}
	override(&kept.JWT, cfg.JWTSecret)
	override(&kept.APIKey, cfg.APIKeySecret)
	override(&kept.Secrets, cfg.SecretsKey)
	return kept, nil
}

// writeDurably writes a private JSON file so that after a crash either the old
// or the whole new content is there.
func writeDurably(path string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(append(data, '\n')); err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
