package containerd

import "testing"

func TestThisKernelWillDo(t *testing.T) {
	for _, err := range CheckKernel() {
		t.Error(err)
	}
}
