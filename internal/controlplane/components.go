package controlplane

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/gitopsd/gitopsd/internal/controlplane/inprocess"
	"github.com/gitopsd/gitopsd/internal/controlplane/pki"
	_ "github.com/gitopsd/gitopsd/internal/controlplane/quiet" // before Kubernetes has its queues measured
	"github.com/spf13/pflag"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/filters/impersonation"
	genericapiserver "k8s.io/apiserver/pkg/server"
	serverfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/client-go/rest"
	cliflag "k8s.io/component-base/cli/flag"
	logsapi "k8s.io/component-base/logs/api/v1"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	apiserveroptions "k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	kcm "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	kcmoptions "k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
)

func init() {
	// Two components configure the one process-wide logger; the second would fail.
	logsapi.ReapplyHandling = logsapi.ReapplyHandlingIgnoreUnchanged
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
}

// runAPIServer runs kube-apiserver until ctx ends, for the network and for this process. It is built from its options, not from its command, because the
// command takes the process's signals for itself.
func runAPIServer(ctx context.Context, cfg Config, keys *pki.PKI, etcd *store, inside *inprocess.Server) error {
	if cfg.AuditLog != "" {
		if err := pki.WriteFile(keys.Path("audit-policy.yaml"), []byte(auditPolicy)); err != nil {
			return err
		}
	}
	opts := apiserveroptions.NewServerRunOptions()
	if err := parseFlags(opts.Flags(), apiServerFlags(cfg, keys)); err != nil {
		return err
	}
	if err := opts.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	completed, err := opts.Complete(ctx)
	if err != nil {
		return err
	}
	if errs := completed.Validate(); len(errs) != 0 {
		return utilerrors.NewAggregate(errs)
	}
	config, err := apiserver.NewConfig(completed)
	if err != nil {
		return err
	}
	auth := &config.Aggregator.GenericConfig.Authentication // of the outermost of the three servers, which asks for all
	auth.Authenticator = union.New(authenticator.RequestFunc(authenticateInside), auth.Authenticator)
	closeStores, err := storeInside(config, etcd.etcd.Server)
	if err != nil {
		return err
	}
	defer closeStores()
	var within http.Handler
	build := config.Aggregator.GenericConfig.BuildHandlerChainFunc // of the same server
	config.Aggregator.GenericConfig.BuildHandlerChainFunc = func(api http.Handler, c *genericapiserver.Config) http.Handler {
		within = chainInside(api, c)
		return build(api, c)
	}
	ready, err := config.Complete()
	if err != nil {
		return err
	}
	chain, err := apiserver.CreateServerChain(ready)
	if err != nil {
		return err
	}
	prepared, err := chain.PrepareRun()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // of what is open inside too
	inside.Serve(ctx, within)
	return prepared.Run(ctx)
}

// chainInside is what a request of this process goes through before its handler: who it is of, what they may, as whom they act, audit, and its deadline. What
// genericapiserver.DefaultBuildHandlerChain has besides is for requests that come over a network: seats by priority and fairness (the engine and the controllers
// have so many workers and no more), a goroutine that answers for a handler that is late (handlers look at the deadline too), CORS, HSTS, spans, warnings.
func chainInside(api http.Handler, c *genericapiserver.Config) http.Handler {
	h := filters.WithAuthorization(api, c.Authorization.Authorizer, c.Serializer)
	h = impersonation.WithConstrainedImpersonation(h, c.Authorization.Authorizer, c.Serializer)
	h = filters.WithAudit(h, c.AuditBackend, c.AuditPolicyRuleEvaluator, c.LongRunningFunc)
	refused := filters.WithFailedAuthenticationAudit(filters.Unauthorized(c.Serializer), c.AuditBackend, c.AuditPolicyRuleEvaluator)
	h = filters.WithAuthentication(h, c.Authentication.Authenticator, refused, c.Authentication.APIAudiences, c.Authentication.RequestHeaderConfig)
	h = filters.WithRequestDeadline(h, c.AuditBackend, c.AuditPolicyRuleEvaluator, c.LongRunningFunc, c.Serializer, c.RequestTimeout)
	h = serverfilters.WithWaitGroup(h, c.LongRunningFunc, c.NonLongRunningRequestWaitGroup)
	h = filters.WithRequestInfo(h, c.RequestInfoResolver)
	h = filters.WithRequestReceivedTimestamp(h)
	h = serverfilters.WithPanicRecovery(h, c.RequestInfoResolver)
	return filters.WithAuditInit(h)
}

// authenticateInside knows who calls from this process.
func authenticateInside(req *http.Request) (*authenticator.Response, bool, error) {
	caller, ok := inprocess.Caller(req.Context()).(user.Info)
	if !ok {
		return nil, false, nil
	}
	return &authenticator.Response{User: caller}, true, nil
}

func apiServerFlags(cfg Config, keys *pki.PKI) []string {
	serving, servingKey := keys.Files(pki.APIServer)
	kubelet, kubeletKey := keys.Files(pki.AgentClient)
	proxyAuthority, _ := keys.AuthorityFiles(pki.FrontProxyCA)
	signing, signingPublic := keys.ServiceAccountFiles()
	proxy, proxyKey := keys.Files(pki.FrontProxyClient)
	etcd := etcdSocket(cfg)
	flags := []string{
		"--bind-address=" + cfg.BindAddress.String(),
		"--advertise-address=" + cfg.AdvertiseAddress.String(),
		"--secure-port=" + strconv.Itoa(cfg.APIPort),
		"--etcd-servers=" + etcd.String(),
		"--tls-cert-file=" + serving, "--tls-private-key-file=" + servingKey,
		"--client-ca-file=" + keys.CAFile(),
		"--kubelet-certificate-authority=" + keys.CAFile(),
		"--kubelet-client-certificate=" + kubelet, "--kubelet-client-key=" + kubeletKey,
		"--kubelet-preferred-address-types=InternalIP,Hostname",
		"--requestheader-client-ca-file=" + proxyAuthority,
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group", "--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=" + proxy, "--proxy-client-key-file=" + proxyKey,
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + signingPublic, "--service-account-signing-key-file=" + signing,
		"--service-cluster-ip-range=" + cfg.ServiceCIDR.String(),
		"--service-node-port-range=" + cfg.NodePortRange,
		"--encryption-provider-config=" + keys.EncryptionConfig(),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--anonymous-auth=false",
		"--allow-privileged=true",
		"--profiling=false",
	}
	if cfg.AuditLog != "" {
		flags = append(flags, "--audit-log-path="+cfg.AuditLog, "--audit-policy-file="+keys.Path("audit-policy.yaml"),
			"--audit-log-maxsize=50", "--audit-log-maxbackup=3", "--audit-log-mode=blocking")
	}
	return flags
}

// runControllerManager runs kube-controller-manager until ctx ends.
func runControllerManager(ctx context.Context, cfg Config, api API) error {
	opts, err := kcmoptions.NewKubeControllerManagerOptions()
	if err != nil {
		return err
	}
	all, disabled, aliases := kcm.KnownControllers(), kcm.ControllersDisabledByDefault(), kcm.ControllerAliases()
	if err := parseFlags(opts.Flags(all, disabled, aliases), controllerManagerFlags(cfg, api.PKI)); err != nil {
		return err
	}
	if err := opts.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	c, err := opts.Config(ctx, all, disabled, aliases)
	if err != nil {
		return err
	}
	// Its controllers have accounts of their own, whose clients keep of this configuration the host and not the transport: so the host says it.
	http.DefaultTransport.(*http.Transport).RegisterProtocol(insideScheme, api.inside.Transport(nil))
	c.Kubeconfig.Transport, c.Kubeconfig.TLSClientConfig = api.Client(pki.ControllerManager).Transport, rest.TLSClientConfig{}
	c.Kubeconfig.Host = insideScheme + "://kubernetes"
	return kcm.Run(ctx, c.Complete())
}

// insideScheme is that of URLs whose requests stay in this process.
const insideScheme = "inprocess"

func controllerManagerFlags(cfg Config, keys *pki.PKI) []string {
	ca, caKey := keys.AuthorityFiles(pki.ClusterCA)
	signing, _ := keys.ServiceAccountFiles()
	return []string{
		"--kubeconfig=" + keys.Path("controller-manager.kubeconfig"),
		"--leader-elect=false", // one process, one store: the data directory's lock is the election
		"--secure-port=0",
		"--use-service-account-credentials=true",
		"--service-account-private-key-file=" + signing,
		"--root-ca-file=" + ca,
		"--cluster-signing-cert-file=" + ca, "--cluster-signing-key-file=" + caKey,
		"--allocate-node-cidrs=true",
		"--cluster-cidr=" + cfg.PodCIDR,
		"--service-cluster-ip-range=" + cfg.ServiceCIDR.String(),
		// The defaults (20 and 30 requests a second) are what a burst of pods would wait for.
		"--kube-api-qps=300", "--kube-api-burst=600",
		"--profiling=false",
	}
}

// auditPolicy notes who did what to which object, never a body: bodies may hold Secrets.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata}
`

func parseFlags(sets cliflag.NamedFlagSets, args []string) error {
	fs := pflag.NewFlagSet("component", pflag.ContinueOnError)
	for _, s := range sets.FlagSets {
		fs.AddFlagSet(s)
	}
	if err := fs.Parse(args); err != nil {
		return fmt.Errorf("parse component flags: %w", err)
	}
	return nil
}
