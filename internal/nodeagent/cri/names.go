package cri

// Labels and annotations by which kubelet marks what it makes; agents after a restart, crictl and log collectors
// find pods by them.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"
	// LabelNode tells whose sandbox it is: of pods that the API does not know, only one's own may be ended.
	LabelNode = "gitopsd.io/node"

	AnnotationHash          = "io.kubernetes.container.hash"
	AnnotationRestartCount  = "io.kubernetes.container.restartCount"
	AnnotationMessagePath   = "io.kubernetes.container.terminationMessagePath"
	AnnotationMessagePolicy = "io.kubernetes.container.terminationMessagePolicy"
	AnnotationPodGrace      = "io.kubernetes.pod.terminationGracePeriod"
	AnnotationPorts         = "io.kubernetes.container.ports"
)
