package e2e

import (
	"fmt"
	"testing"
	"time"
)

// A push becomes containers that answer, the next commit changes them, a revert brings them back.
func TestPushToRunningContainers(t *testing.T) {
	i := shared(t)
	from, _ := i.nodePorts()
	url := fmt.Sprintf("http://%s:%d/", nodeAddress(t), from)
	a := i.deploy(t, map[string]string{"hello.yaml": helloDeployment("v1", 2, from)})
	a.await(t)
	answers(t, 10*time.Second, url, "version v1")

	started := time.Now()
	a.repo.commit(t, "two", map[string]string{"hello.yaml": helloDeployment("v2", 2, from)})
	answers(t, 30*time.Second, url, "version v2")
	t.Logf("commit to the new container answering: %s", time.Since(started).Round(time.Millisecond))
	a.await(t)
	eventually(t, 10*time.Second, "only the new version answers", func() error { // a pod that ends may still be led to when it no longer counts
		for range 10 {
			if err := answer(url, "version v2"); err != nil {
				return err
			}
		}
		return nil
	})
	consistently(t, time.Second, "only the new version answers", func() error { return answer(url, "version v2") })

	a.repo.revert(t)
	answers(t, 30*time.Second, url, "version v1")
	if st := a.await(t).Status; st.Health != "Healthy" || st.LastSync.HealthyAfter == nil {
		t.Errorf("health %s, healthy after %v", st.Health, st.LastSync.HealthyAfter)
	}
	if n := len(i.pods(t, a.namespace)); n != 2 {
		t.Errorf("%d pods after the revert, want 2", n)
	}
}
