package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress shows how far long work is: a bar on a terminal, else a line every
// few seconds and one at the end.
type progress struct {
	title string
	out   io.Writer
	bar   *progressbar.ProgressBar
	said  time.Time
}

const progressInterval = 3 * time.Second

// newProgress writes to standard error, so that results can be piped.
func newProgress(title string) *progress {
	p := &progress{title: title, out: os.Stderr, said: time.Now()}
	if isTerminal(os.Stderr) {
		p.bar = progressbar.NewOptions64(1, progressbar.OptionSetWriter(os.Stderr), progressbar.OptionSetDescription(title),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetPredictTime(true), progressbar.OptionClearOnFinish())
	}
	return p
}

// at reports done of total.
func (p *progress) at(done, total uint64) {
	if p.bar != nil {
		p.bar.ChangeMax64(int64(max(total, 1)))
		_ = p.bar.Set64(int64(min(done, total)))
		return
	}
	if time.Since(p.said) >= progressInterval {
		p.said = time.Now()
		fmt.Fprintf(p.out, "%s: %.0f %%\n", p.title, percent(done, total))
	}
}

func (p *progress) done() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}

func percent(done, total uint64) float64 {
	if total == 0 {
		return 100
	}
	return 100 * float64(min(done, total)) / float64(total)
}
