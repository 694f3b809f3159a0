package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// The deployment files cannot be started by a test; what can be held against
// the program is.

func TestComposeFile(t *testing.T) {
	t.Parallel()
	var file struct {
		Services map[string]struct {
			Image       string
			Build       any
			Command     []string
			Environment map[string]string
			Volumes     []string
			Ports       []string
			DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
		}
		Volumes map[string]any
	}
	readYAML(t, "../../docker-compose.yml", &file)
	settings := knownSettings()
	root := newRootCommand()
	for name, service := range file.Services {
		require.True(t, service.Image != "" || service.Build != nil, "%s has neither image nor build", name)
		for dependency := range service.DependsOn {
			require.Contains(t, file.Services, dependency, "%s depends on an unknown service", name)
		}
		for _, port := range service.Ports {
			require.True(t, strings.HasPrefix(port, "127.0.0.1:"), "%s publishes %s beyond this machine", name, port)
		}
		for _, volume := range service.Volumes {
			source, _, _ := strings.Cut(volume, ":")
			if path, ok := strings.CutPrefix(source, "./"); ok {
				_, err := os.Stat(filepath.Join("../..", path))
				require.NoError(t, err, "volume of %s", name)
			} else {
				require.Contains(t, file.Volumes, source, "volume of %s", name)
			}
		}
		if service.Build == nil {
			continue
		}
		for setting := range service.Environment {
			require.Contains(t, settings, setting, "%s sets what the program does not know", name)
		}
		command, _, err := root.Find(service.Command)
		require.NoError(t, err)
		require.NotEqual(t, root, command, "%s runs an unknown command %v", name, service.Command)
	}
}

func TestDockerfileCommands(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../Dockerfile")
	require.NoError(t, err)
	commands := regexp.MustCompile(`(?m)CMD (\[.*\])$`).FindAllSubmatch(data, -1)
	require.Len(t, commands, 2)
	for _, c := range commands {
		var args []string
		require.NoError(t, json.Unmarshal(c[1], &args))
		args = slices.DeleteFunc(args, func(a string) bool { return a == "/sparkops" })
		command, rest, err := newRootCommand().Find(args)
		require.NoError(t, err)
		require.NoError(t, command.ParseFlags(rest), "%v", args)
	}
	require.Contains(t, string(data), "USER 65532:65532")
}

func TestMonitoringFilesParse(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"prometheus.yml", "alerts.yml", "grafana/datasources/prometheus.yml", "grafana/dashboards/provider.yml"} {
		var any map[string]any
		readYAML(t, filepath.Join("../../docs/monitoring", name), &any)
		require.NotEmpty(t, any, name)
	}
	require.NotEmpty(t, monitoredMetrics(t))
}

// monitoredMetrics returns every metric of ours that dashboards and alerts use.
func monitoredMetrics(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, name := range []string{"alerts.yml", "grafana/dashboards/overview.json"} {
		data, err := os.ReadFile(filepath.Join("../../docs/monitoring", name))
		require.NoError(t, err)
		if strings.HasSuffix(name, ".json") {
			require.True(t, json.Valid(data), name)
		}
		names = append(names, regexp.MustCompile(`sparkops_[a-z_]+`).FindAllString(string(data), -1)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(data, into), path)
}

func knownSettings() []string {
	var names []string
	for _, match := range regexp.MustCompile(`(?m)^([A-Z_]+)=`).FindAllStringSubmatch(envExample(), -1) {
		names = append(names, match[1])
	}
	return names
}
